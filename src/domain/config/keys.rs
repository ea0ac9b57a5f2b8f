//! Every key of the configuration: its name, its default, and what it is for.

use super::Config;

/// A key of the configuration, for listings and generated documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfigKey {
    /// The name on every host; natively with `MYELIN_` before it in the environment.
    pub name: &'static str,
    /// The value when none is given; `None` when there is none, or when it follows from another key.
    pub default: Option<&'static str>,
    /// What it does and what is allowed.
    pub help: &'static str,
    /// Whether it is nobody else's to know.
    pub is_secret: bool,
}

// scripts/deploy reads the names from the calls of these two.
const fn key(name: &'static str, default: Option<&'static str>, help: &'static str) -> ConfigKey {
    ConfigKey { name, default, help, is_secret: false }
}

const fn secret(name: &'static str, default: Option<&'static str>, help: &'static str) -> ConfigKey {
    ConfigKey { name, default, help, is_secret: true }
}

impl Config {
    /// Every key there is.
    pub const KEYS: &[ConfigKey; 100] = &[
        key("SERVER_NAME", None, "required. The server's name in user ids; may carry a port, such as localhost:8448"),
        key(
            "PUBLIC_BASEURL",
            None,
            "the https:// or http:// URL where clients reach the server; by default https://SERVER_NAME",
        ),
        key("WELL_KNOWN_SERVER", None, "host:port announced to other servers at /.well-known/matrix/server"),
        key(
            "WELL_KNOWN_CLIENT",
            None,
            "a JSON object with more keys of /.well-known/matrix/client, such as m.identity_server",
        ),
        key("REGISTRATION", Some("closed"), "who may register: closed, token or open"),
        secret("REGISTRATION_SHARED_SECRET", None, "Lets a client that knows it register users; not empty"),
        key("ALLOW_GUESTS", Some("off"), "whether guests may register: on or off"),
        key(
            "TERMS_URL",
            None,
            "the https:// or http:// URL of a document that new users have to accept; none by default",
        ),
        key("TERMS_NAME", Some("Terms of Service"), "what clients call that document; not empty"),
        key("TERMS_VERSION", Some("1"), "the version of that document; not empty"),
        key(
            "RECAPTCHA_PUBLIC_KEY",
            None,
            "the site key of reCAPTCHA, whose challenge new users have to solve; goes with RECAPTCHA_PRIVATE_KEY",
        ),
        secret("RECAPTCHA_PRIVATE_KEY", None, "The secret key of reCAPTCHA"),
        key(
            "RECAPTCHA_VERIFY_URL",
            Some("https://www.google.com/recaptcha/api/siteverify"),
            "where the solution of a challenge is verified",
        ),
        key("PASSWORD_LENGTH_MIN", Some("1"), "the fewest characters of a new password: 1 to 128"),
        key(
            "ACCESS_TOKEN_LIFETIME",
            Some("300"),
            "how long the access tokens of clients that refresh them last, in seconds: 1 to 31536000",
        ),
        key(
            "LOGIN_TOKENS",
            Some("on"),
            "whether users may make a token that signs in another device, once, within two minutes: on or off",
        ),
        key(
            "SUPPORT_CONTACTS",
            Some(""),
            "the contacts for help with the server, separated by commas: each a role \
             (m.role.admin, m.role.security or one of your own), a user id, an email address, or both, separated by spaces",
        ),
        key("SUPPORT_PAGE", None, "the https:// or http:// URL of a page that helps"),
        key(
            "POLICY_SERVER_KEY",
            None,
            "the ed25519 public key of the policy server that goes by SERVER_NAME: 32 bytes in base64 without padding",
        ),
        key("DEFAULT_ROOM_VERSION", Some("12"), "the version of new rooms: 1 to 12"),
        key(
            "PASSWORD_HASH_COST",
            Some("19456,2,1"),
            "argon2id as memory_kib,iterations,parallelism: whole numbers from 1, memory_kib at least 8 × parallelism",
        ),
        key("FEDERATION", Some("on"), "whether this server talks to others: on or off"),
        key(
            "FEDERATION_ALLOW",
            Some("*"),
            "the servers it talks to: names separated by commas, in which * stands for any text and ? for one \
             character; a name without a port is of every port",
        ),
        key(
            "FEDERATION_DENY",
            Some(""),
            "the servers it does not talk to, whatever FEDERATION_ALLOW says, in the same form",
        ),
        key(
            "TRUSTED_KEY_SERVERS",
            Some("matrix.org"),
            "the servers that are asked for the keys of servers that do not answer, and believed: names separated by \
             commas; may be empty",
        ),
        key(
            "EXTRA_CA",
            None,
            "certificate authorities, as PEM, that are trusted for connections to others besides the usual ones; lines \
             may end with \\n",
        ),
        key("EXTRA_CA_FILE", None, "natively, a file of such certificate authorities, as PEM"),
        key(
            "ALLOW_PRIVATE_ADDRESSES",
            Some("off"),
            "whether other servers, push gateways and previewed pages may be at addresses that are not public, such as \
             127.0.0.1 or 10.0.0.1: on or off",
        ),
        key(
            "DENY_ADDRESSES",
            Some(""),
            "addresses that are not connected to even if they are public or ALLOW_PRIVATE_ADDRESSES is on: addresses and \
             ranges such as 10.0.0.0/8, separated by commas; on Workers only for URLs and server names that are addresses",
        ),
        key(
            "DNS_OVERRIDES",
            Some(""),
            "where names are, whatever the DNS says: name=address or name=address:port, separated by commas; a name that \
             begins with _ is an SRV record, _matrix-fed._tcp.name=target:port",
        ),
        key("PRESENCE", Some("on"), "whether users see the presence of those they share a room with: on or off"),
        key(
            "MAX_UPLOAD_SIZE",
            Some("50M"),
            "the largest file that may be uploaded, or is fetched from another server: bytes, or with K, M or G; 1 to 16G, \
             on Workers never more than 100M",
        ),
        key(
            "MEDIA_QUOTA",
            None,
            "how much media one user may have: bytes, or with K, M, G or T; up to 1024T; by default without limit",
        ),
        key(
            "MEDIA_QUOTA_DAILY",
            None,
            "how much media one user may upload within 24 hours, in the same form; by default without limit",
        ),
        key(
            "MEDIA_QUOTA_INFO_URL",
            None,
            "the https:// or http:// URL where users read about MEDIA_QUOTA: a user who reaches it is sent there",
        ),
        key(
            "MEDIA_RETENTION",
            None,
            "how many days our users' media is kept after it was last fetched, unless it is protected: 1 to 36500; by \
             default for ever",
        ),
        key(
            "REMOTE_MEDIA_RETENTION",
            Some("90"),
            "how many days a copy of other servers' media is kept after it was last fetched: 1 to 36500, or 0 for ever",
        ),
        key(
            "REMOTE_MEDIA_QUOTA",
            None,
            "how much is kept of copies of other servers' media and images of previews, in the same form as MEDIA_QUOTA: \
             the files not fetched for the longest time are deleted, within minutes; by default without limit",
        ),
        key(
            "AUTHENTICATED_MEDIA",
            Some("on"),
            "whether media uploaded from now on is served only to clients with an access token, and not by the \
             deprecated endpoints: on or off",
        ),
        key("TURN_URIS", None, "where calls are relayed: turn: and turns: URIs separated by commas"),
        secret("TURN_SHARED_SECRET", None, "The secret shared with the TURN servers; goes with TURN_URIS"),
        key(
            "TURN_CLOUDFLARE_KEY_ID",
            None,
            "instead of TURN_URIS, the id of a key of Cloudflare's TURN service; goes with TURN_CLOUDFLARE_API_TOKEN",
        ),
        secret("TURN_CLOUDFLARE_API_TOKEN", None, "The API token of the key TURN_CLOUDFLARE_KEY_ID"),
        key(
            "TURN_CLOUDFLARE_URL",
            Some("https://rtc.live.cloudflare.com/v1/turn"),
            "where Cloudflare's TURN service is asked for credentials",
        ),
        key(
            "TURN_USER_LIFETIME",
            Some("86400"),
            "how long credentials for TURN servers are good, in seconds: 60 to 31536000, and to 172800 at Cloudflare",
        ),
        key(
            "URL_PREVIEWS",
            Some("off"),
            "whether users get previews of URLs, which this server then fetches: on or off",
        ),
        key(
            "URL_PREVIEWS_DENY",
            Some(""),
            "the hosts from which nothing is fetched for previews: names or addresses separated by commas, in which \
             * stands for any text and ? for one character",
        ),
        key(
            "SMTP_HOST",
            None,
            "the server that takes our mail: a name or an address; without it, or MAIL_URL, there is no mail",
        ),
        key(
            "SMTP_PORT",
            None,
            "the port of the mail server; by default 465 with SMTP_ENCRYPTION=tls, and 587 otherwise",
        ),
        key(
            "SMTP_ENCRYPTION",
            Some("starttls"),
            "how the connection to the mail server is encrypted: tls (from the first byte), starttls, or none",
        ),
        key("SMTP_USER", None, "our name at the mail server, if it asks; goes with SMTP_PASSWORD"),
        secret("SMTP_PASSWORD", None, "The password of SMTP_USER"),
        key("MAIL_URL", None, "instead of SMTP_HOST, where each message is sent as a POST of JSON, as the README says"),
        secret("MAIL_TOKEN", None, "What MAIL_URL knows us by: it goes along as a bearer token"),
        key("EMAIL_FROM", None, "the sender of mail, if there is any: an address, or a name and <an address>"),
        key(
            "REGISTRATION_REQUIRES_EMAIL",
            Some("off"),
            "whether new users have to prove that an email address is theirs: on or off",
        ),
        key(
            "EMAIL_NOTIFICATION_DELAY",
            Some("600"),
            "how long a message is unread, in seconds, before mail tells the users of it who want that: 0 to 86400",
        ),
        key(
            "EMAIL_NOTIFICATION_PAUSE",
            Some("3600"),
            "how long a user then gets no other such mail, in seconds: 0 to 86400",
        ),
        key(
            "RETENTION",
            Some("off"),
            "whether messages are removed when they are older than their room wants (m.room.retention): on or off",
        ),
        key(
            "RETENTION_DEFAULT",
            None,
            "how long messages are kept in rooms that say nothing: a whole number with s, m, h, d, w or y; by default for ever",
        ),
        key("RETENTION_MIN", None, "the shortest time that a room may choose, in the same form"),
        key("RETENTION_MAX", None, "the longest time that a room may choose, in the same form"),
        key(
            "SERVER_NOTICES_LOCALPART",
            None,
            "the localpart of the user that administrators' notices come from, a user id that nobody else has: letters a to \
             z, digits and ._=-/+; without it there are none",
        ),
        key(
            "SERVER_NOTICES_DISPLAY_NAME",
            Some("Server Notices"),
            "the name of the user that notices come from; not empty",
        ),
        key("SERVER_NOTICES_ROOM_NAME", Some("Server Notices"), "the name of the rooms of notices; not empty"),
        secret(
            "APPSERVICES",
            Some(""),
            "The registrations of application services, with their tokens: the contents of their YAML files, one \
             after the other with a line --- between them, or a JSON list",
        ),
        key(
            "APPSERVICE_FILES",
            Some(""),
            "natively, the registration files of application services, separated by commas; their contents come after \
             APPSERVICES",
        ),
        key("METRICS", Some("off"), "whether /metrics is served: on or off"),
        key("LOG_LEVEL", Some("info"), "the least severe level that is logged: error, warn, info or debug"),
        key("TEST_HOOKS", Some("off"), "for tests only, lets a test evict actors: on or off"),
        key(
            "TRUSTED_PROXIES",
            Some("127.0.0.0/8,::1"),
            "natively, the reverse proxies whose X-Forwarded-For names the client, which they must set or append to: \
             addresses and ranges such as 10.0.0.0/8, separated by commas; may be empty",
        ),
        key(
            "RATE_LIMITS",
            Some("on"),
            "whether there are rate limits: on or off. Each is per_second,burst; 0 as per_second is no limit",
        ),
        key("RC_LOGIN", None, "for every RC_LOGIN_* that is not given: per_second,burst, or 0"),
        key("RC_LOGIN_ADDRESS", Some("0.003,5"), "attempts to log in, per address: per_second,burst, or 0"),
        key("RC_LOGIN_ACCOUNT", Some("0.003,5"), "logins, per account: per_second,burst, or 0"),
        key("RC_LOGIN_FAILED_ATTEMPTS", Some("0.17,3"), "wrong passwords, per account: per_second,burst, or 0"),
        key(
            "RC_REGISTRATION",
            Some("0.17,3"),
            "accounts made and proofs that failed, per address: per_second,burst, or 0",
        ),
        key(
            "RC_REGISTRATION_TOKEN_VALIDITY",
            Some("0.1,5"),
            "registration tokens asked about or tried on a page, per address: per_second,burst, or 0",
        ),
        key(
            "RC_EMAIL_VALIDATION",
            Some("0.003,5"),
            "emails that prove an address, per client's address and per email address: per_second,burst, or 0",
        ),
        key("RC_MESSAGE", Some("0.2,10"), "events sent and profiles changed, per user: per_second,burst, or 0"),
        key("RC_JOINS", None, "for every RC_JOINS_* that is not given: per_second,burst, or 0"),
        key("RC_JOINS_LOCAL", Some("0.1,10"), "joins and knocks, per user: per_second,burst, or 0"),
        key("RC_JOINS_PER_ROOM", Some("1,10"), "joins, per room: per_second,burst, or 0"),
        key("RC_INVITES", None, "for every RC_INVITES_* that is not given: per_second,burst, or 0"),
        key("RC_INVITES_PER_ROOM", Some("0.3,10"), "invitations, per room: per_second,burst, or 0"),
        key("RC_INVITES_PER_USER", Some("0.003,5"), "invitations, per invited user: per_second,burst, or 0"),
        key("RC_INVITES_PER_ISSUER", Some("0.3,10"), "invitations, per inviting user: per_second,burst, or 0"),
        key("RC_ROOM_CREATION", Some("0.016,10"), "rooms created, per user: per_second,burst, or 0"),
        key("RC_USER_DIRECTORY", Some("0.016,200"), "searches of the user directory, per user: per_second,burst, or 0"),
        key("RC_MEDIA_CREATE", Some("10,50"), "media created and uploaded, per user: per_second,burst, or 0"),
        key(
            "RC_RECEIPTS",
            Some("10,100"),
            "receipts, read markers and notices of typing, per user: per_second,burst, or 0",
        ),
        key("RC_REPORTS", Some("1,5"), "reports to the administrators, per user: per_second,burst, or 0"),
        key(
            "RC_REQUESTS",
            Some("50,500"),
            "other requests that the specification limits, per access token, or per address where there is none: \
             per_second,burst, or 0",
        ),
        key("RC_URL_PREVIEWS", Some("1,30"), "URLs asked about, per user: per_second,burst, or 0"),
        key("RC_PRESENCE", Some("0.1,1"), "changes of presence, per user: per_second,burst, or 0"),
        key(
            "RC_REMOTE_QUERIES",
            Some("2,200"),
            "questions to other servers on behalf of unknown clients, per address: per_second,burst, or 0",
        ),
        key("RC_REMOTE_INVITES", Some("1,100"), "invitations, per server that sends them: per_second,burst, or 0"),
        key("RC_TO_DEVICE", Some("20,500"), "requests with messages to devices, per user: per_second,burst, or 0"),
        key("RC_NEW_SERVERS", Some("0.1,100"), "unknown servers written to, per user: per_second,burst, or 0"),
        key(
            "RC_REMOTE_MEDIA",
            Some("10,500"),
            "media fetched from other servers, per user, or per address for unknown clients: per_second,burst, or 0",
        ),
    ];
}
