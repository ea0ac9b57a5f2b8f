-- Email addresses of accounts. `medium` is always 'email'.
CREATE TABLE IF NOT EXISTS contact (
    medium TEXT NOT NULL,
    address TEXT NOT NULL,
    user_id TEXT NOT NULL,
    validated_ms BIGINT NOT NULL,
    added_ms BIGINT NOT NULL,
    PRIMARY KEY (medium, address)
);
CREATE INDEX IF NOT EXISTS contact_of_user ON contact (user_id);

-- Sessions that prove an email address: a link was sent, or confirmed. The id is a digest of the purpose, the address and
-- the client's secret, and of the link's token there is a hash.
CREATE TABLE IF NOT EXISTS email_validation (
    sid TEXT PRIMARY KEY,
    purpose TEXT NOT NULL,
    address TEXT NOT NULL,
    token_hash TEXT NOT NULL,
    send_attempt BIGINT NOT NULL,
    next_link TEXT,
    expires_ms BIGINT NOT NULL,
    validated_ms BIGINT
);
CREATE INDEX IF NOT EXISTS email_validation_by_age ON email_validation (expires_ms);
