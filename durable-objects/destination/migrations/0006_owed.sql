-- Whose devices the server is to be told of is asked whenever it is owed anything. The index has entries only for these.
CREATE INDEX device_list_owed ON device_list (user_id) WHERE changed_ms > told_ms;
