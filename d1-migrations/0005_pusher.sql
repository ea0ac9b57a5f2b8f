-- Which users have a pusher with a key: whoever sets it takes it from the others. A row may outlive its pusher.
CREATE TABLE IF NOT EXISTS pusher (
    app_id TEXT NOT NULL,
    pushkey TEXT NOT NULL,
    user_id TEXT NOT NULL,
    PRIMARY KEY (app_id, pushkey, user_id)
);
