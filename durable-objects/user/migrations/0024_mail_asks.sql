-- As `asked_to`, for mail: of that the release before makes an end for those with a badge only.
ALTER TABLE pusher ADD COLUMN mail_asked_to INTEGER;
