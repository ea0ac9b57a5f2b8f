use super::{Config, ConfigError, LogLevel, PasswordHashCost, Registration, Relay, Turn};
use crate::{RateLimit, RateLimited};

pub(super) fn config(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let named = [("SERVER_NAME", "example.org")].into_iter().chain(pairs.iter().copied());
    Config::from_pairs(named.map(|(name, value)| (name.to_owned(), value.to_owned())))
}

#[test]
fn a_name_is_enough() {
    let config = config(&[]).unwrap();
    assert_eq!(config.public_baseurl, "https://example.org");
    assert_eq!(config.registration, Registration::Closed);
    assert_eq!(config.default_room_version.as_str(), "12");
    assert_eq!(config.password_hash_cost, PasswordHashCost { memory_kib: 19456, iterations: 2, parallelism: 1 });
    assert_eq!((config.metrics, config.test_hooks, config.log_level), (false, false, LogLevel::Info));
    assert_eq!(config.rate_limits.len(), RateLimited::ALL.len());
    assert_eq!(config.rate_limits[&RateLimited::Message], RateLimit { per_second: 0.2, burst: 10 });
    assert_eq!(config.trusted_proxies, ["127.0.0.0/8", "::1"].map(|range| range.parse().unwrap()));
    assert_eq!((config.allow_guests, &config.terms, config.password_length_min), (false, &None, 1));
    assert_eq!(config.access_token_lifetime_ms, 300_000);
    assert_eq!((config.max_upload_size, config.authenticated_media), (52_428_800, true));
    assert_eq!((config.media_retention_ms, config.remote_media_retention_ms), (None, Some(7_776_000_000)));
    assert!(!config.url_previews.are_on);
    assert!(config.federation.allows("a.org:8448".try_into().unwrap()) && !config.outgoing.allow_private_addresses);
    assert_eq!((config.login_tokens, config.support, config.policy_server_key), (true, None, None));
    assert_eq!((config.well_known_server, config.registration_shared_secret), (None, None));
}

#[test]
fn what_is_secret_says_so() {
    let secret = Config::KEYS.iter().filter(|key| key.is_secret).map(|key| key.name);
    let expected = [
        "REGISTRATION_SHARED_SECRET",
        "RECAPTCHA_PRIVATE_KEY",
        "TURN_SHARED_SECRET",
        "TURN_CLOUDFLARE_API_TOKEN",
        "SMTP_PASSWORD",
        "MAIL_TOKEN",
        "APPSERVICES",
    ];
    assert_eq!(secret.collect::<Vec<_>>(), expected);
}

#[test]
fn an_authority_may_be_on_one_line() {
    let given = "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----";
    for text in [given.to_owned(), given.replace('\n', "\\n")] {
        assert_eq!(config(&[("EXTRA_CA", &text)]).unwrap().outgoing.extra_ca.as_deref(), Some(given));
    }
}

#[test]
fn every_key_is_read() {
    let config = config(&[
        ("PUBLIC_BASEURL", "http://matrix.example.org:8008/"),
        ("WELL_KNOWN_SERVER", "matrix.example.org:443"),
        ("WELL_KNOWN_CLIENT", r#"{ "a.b": [1] }"#),
        ("REGISTRATION", "token"),
        ("REGISTRATION_SHARED_SECRET", "open sesame"),
        ("ALLOW_GUESTS", "on"),
        ("TERMS_URL", "https://example.org/terms?lang=en#1"),
        ("TERMS_NAME", "House Rules"),
        ("TERMS_VERSION", "2.1"),
        ("RECAPTCHA_PUBLIC_KEY", "site_key"),
        ("RECAPTCHA_PRIVATE_KEY", "person sesame"),
        ("RECAPTCHA_VERIFY_URL", "https://captcha.test/verify"),
        ("PASSWORD_LENGTH_MIN", "8"),
        ("ACCESS_TOKEN_LIFETIME", "60"),
        ("LOGIN_TOKENS", "off"),
        ("SUPPORT_CONTACTS", "m.role.admin @a:example.org, m.role.security b@example.org"),
        ("SUPPORT_PAGE", "https://example.org/help"),
        ("POLICY_SERVER_KEY", "6yhHGKhCiXTSEN2ksjV7kX_N6rBQZ3Xb-M7LlC6NS-s"),
        ("DEFAULT_ROOM_VERSION", "10"),
        ("PASSWORD_HASH_COST", "8, 1, 1"),
        ("MAX_UPLOAD_SIZE", "512K"),
        ("MEDIA_QUOTA", "2T"),
        ("MEDIA_QUOTA_DAILY", "1G"),
        ("MEDIA_QUOTA_INFO_URL", "https://example.org/quota#more"),
        ("MEDIA_RETENTION", "90"),
        ("REMOTE_MEDIA_RETENTION", "0"),
        ("REMOTE_MEDIA_QUOTA", "20G"),
        ("AUTHENTICATED_MEDIA", "off"),
        ("TURN_URIS", "turn:a.org?transport=udp, turns:a.org"),
        ("TURN_SHARED_SECRET", "relay sesame"),
        ("TURN_USER_LIFETIME", "3600"),
        ("URL_PREVIEWS", "on"),
        ("URL_PREVIEWS_DENY", "*.corp.test, 192.0.2.*"),
        ("METRICS", "on"),
        ("LOG_LEVEL", "debug"),
        ("TEST_HOOKS", "on"),
        ("TRUSTED_PROXIES", "10.0.0.0/8, 192.0.2.1"),
        ("FEDERATION_ALLOW", "*.org"),
        ("FEDERATION_DENY", "evil.org, *.evil.org"),
        ("TRUSTED_KEY_SERVERS", "a.org,b.org:8448"),
        ("EXTRA_CA_FILE", "/etc/ca.pem"),
        ("ALLOW_PRIVATE_ADDRESSES", "on"),
        ("DENY_ADDRESSES", "10.0.0.0/8, 192.0.2.1"),
        ("DNS_OVERRIDES", "a.org=127.0.0.1:1"),
        ("RC_LOGIN", "0"),
        ("RC_LOGIN_ACCOUNT", "0.1,9"),
        ("RC_JOINS", "3,3"),
        ("RC_REGISTRATION", "0.5,2"),
        ("RC_MESSAGE", "1000,1000"),
    ])
    .unwrap();
    assert_eq!(config.public_baseurl, "http://matrix.example.org:8008");
    assert_eq!(config.well_known_server.as_deref().unwrap(), "matrix.example.org:443");
    let calls = config.well_known_client["a.b"][0].as_u64();
    assert_eq!((&config.registration, calls), (&Registration::Token, Some(1)));
    assert_eq!(config.registration_shared_secret.as_ref().unwrap().expose(), "open sesame");
    let terms = config.terms.as_ref().map(|terms| (&*terms.url, &*terms.name, &*terms.version));
    assert_eq!(terms, Some(("https://example.org/terms?lang=en#1", "House Rules", "2.1")));
    let recaptcha = config.recaptcha.as_ref().unwrap();
    assert_eq!((&*recaptcha.public_key, recaptcha.private_key.expose()), ("site_key", "person sesame"));
    assert_eq!(recaptcha.verify_url, "https://captcha.test/verify");
    assert_eq!((config.allow_guests, config.password_length_min, config.access_token_lifetime_ms), (true, 8, 60_000));
    let support = config.support.as_ref().map(|support| (support.contacts.len(), support.page.as_deref()));
    assert_eq!((config.login_tokens, support), (false, Some((2, Some("https://example.org/help")))));
    assert_eq!(config.policy_server_key.as_deref(), Some("6yhHGKhCiXTSEN2ksjV7kX_N6rBQZ3Xb-M7LlC6NS-s"));
    assert_eq!((config.max_upload_size, config.authenticated_media), (524_288, false));
    assert_eq!((config.media_retention_ms, config.remote_media_retention_ms), (Some(7_776_000_000), None));
    let Some(Turn { relay: Relay::Own { uris, secret }, lifetime_s }) = &config.turn else { panic!("no TURN") };
    assert_eq!((uris.len(), secret.expose(), *lifetime_s), (2, "relay sesame", 3600));
    let quota = &config.media_quota;
    let bytes_max = [quota.stored_max, quota.daily_max, quota.remote_max];
    assert_eq!(bytes_max, [2 << 40, 1 << 30, 20 << 30].map(Some));
    assert_eq!(quota.info_url.as_deref(), Some("https://example.org/quota#more"));
    assert_eq!(config.default_room_version.as_str(), "10");
    assert_eq!(config.password_hash_cost, PasswordHashCost { memory_kib: 8, iterations: 1, parallelism: 1 });
    assert_eq!((config.metrics, config.test_hooks, config.log_level), (true, true, LogLevel::Debug));
    assert_eq!(config.trusted_proxies, ["10.0.0.0/8", "192.0.2.1"].map(|range| range.parse().unwrap()));
    let allowed = ["a.org", "x.evil.org"].map(|name| config.federation.allows(name.try_into().unwrap()));
    assert_eq!(allowed, [true, false]);
    assert_eq!(config.federation.trusted_key_servers, ["a.org", "b.org:8448"]);
    assert_eq!(config.outgoing.extra_ca_file.as_deref(), Some("/etc/ca.pem"));
    assert!(config.outgoing.allow_private_addresses && config.outgoing.connect_to("10.0.0.1", 2).is_err());
    assert_eq!(config.outgoing.connect_to("a.org", 2).unwrap().port, 1);
    let previewed = ["a.org", "a.corp.test", "a.corp.test.", "192.0.2.7"].map(|host| config.url_previews.allow(host));
    assert_eq!(previewed, [true, false, false, false]);
    let limit = |limited| config.rate_limits.get(&limited).map(|limit| (limit.per_second, limit.burst));
    for (limited, expected) in [
        (RateLimited::LoginAddress, None),
        (RateLimited::LoginFailedAttempts, None),
        (RateLimited::LoginAccount, Some((0.1, 9))),
        (RateLimited::JoinsLocal, Some((3.0, 3))),
        (RateLimited::JoinsPerRoom, Some((3.0, 3))),
        (RateLimited::Registration, Some((0.5, 2))),
        (RateLimited::Message, Some((1000.0, 1000))),
        (RateLimited::RoomCreation, Some((0.016, 10))),
    ] {
        assert_eq!(limit(limited), expected, "{limited:?}");
    }
    assert!(!format!("{config:?}").contains("sesame"), "secrets are not shown");
}

#[test]
fn errors_name_the_key_and_not_the_value() {
    let table = [
        ("PUBLIC_BASEURL", "example.org"),
        ("PUBLIC_BASEURL", "https:///"),
        ("PUBLIC_BASEURL", "https://example.org/?x"),
        ("WELL_KNOWN_SERVER", "https://example.org"),
        ("WELL_KNOWN_CLIENT", "[]"),
        ("WELL_KNOWN_CLIENT", r#"{ "calls": 1 }"#),
        ("WELL_KNOWN_CLIENT", r#"{ "m.homeserver": {} }"#),
        ("REGISTRATION", "Open"),
        ("REGISTRATION_SHARED_SECRET", ""),
        ("DEFAULT_ROOM_VERSION", "13"),
        ("PASSWORD_HASH_COST", "19456,2"),
        ("PASSWORD_HASH_COST", "19456,2,0"),
        ("PASSWORD_HASH_COST", "7,1,1"),
        ("PASSWORD_HASH_COST", "19456,2,1,1"),
        ("ALLOW_GUESTS", "yes"),
        ("TERMS_URL", "terms"),
        ("TERMS_URL", "https://example.org/?a b"),
        ("TERMS_NAME", ""),
        ("TERMS_VERSION", " "),
        ("PASSWORD_LENGTH_MIN", "0"),
        ("PASSWORD_LENGTH_MIN", "129"),
        ("ACCESS_TOKEN_LIFETIME", "0"),
        ("LOGIN_TOKENS", "yes"),
        ("SUPPORT_CONTACTS", "admin@example.org"),
        ("SUPPORT_PAGE", "help"),
        ("POLICY_SERVER_KEY", "c2hvcnQ"),
        ("MAX_UPLOAD_SIZE", "0"),
        ("MAX_UPLOAD_SIZE", "50MB"),
        ("MAX_UPLOAD_SIZE", "17G"),
        ("MEDIA_RETENTION", "0"),
        ("REMOTE_MEDIA_RETENTION", "36501"),
        ("REMOTE_MEDIA_QUOTA", "0"),
        ("TURN_URIS", "https://a.org"),
        ("TURN_URIS", ""),
        ("TURN_SHARED_SECRET", ""),
        ("TURN_USER_LIFETIME", "59"),
        ("TURN_CLOUDFLARE_KEY_ID", "../key"),
        ("TURN_CLOUDFLARE_API_TOKEN", ""),
        ("TURN_CLOUDFLARE_URL", "rtc.live.cloudflare.com"),
        ("RECAPTCHA_PUBLIC_KEY", "<script>"),
        ("RECAPTCHA_VERIFY_URL", "captcha.test"),
        ("EMAIL_NOTIFICATION_DELAY", "86401"),
        ("METRICS", "yes"),
        ("LOG_LEVEL", "trace"),
        ("TEST_HOOKS", "1"),
        ("TRUSTED_PROXIES", "127.0.0.1 10.0.0.1"),
        ("FEDERATION", "yes"),
        ("FEDERATION_ALLOW", "https://a.org"),
        ("FEDERATION_DENY", "a org"),
        ("TRUSTED_KEY_SERVERS", "*"),
        ("EXTRA_CA", "/etc/ca.pem"),
        ("EXTRA_CA_FILE", ""),
        ("ALLOW_PRIVATE_ADDRESSES", "127.0.0.1"),
        ("DNS_OVERRIDES", "a.org"),
        ("RATE_LIMITS", "0"),
        ("RC_LOGIN", "fast"),
        ("RC_LOGIN", "1"),
        ("RC_REGISTRATION", "-1,1"),
        ("RC_MESSAGE", "inf,1"),
    ];
    for (name, value) in table {
        let error = config(&[(name, value)]).unwrap_err();
        assert!(matches!(error, ConfigError::BadValue { name: named, .. } if named == name), "{name}={value}: {error}");
        assert!(error.to_string().starts_with(name), "{error}");
    }
    let unknown = config(&[("REGISTRATON", "open")]).unwrap_err();
    assert!(unknown.to_string().starts_with("REGISTRATON: there is no such key. Known keys: SERVER_NAME, "));
    assert_eq!(config(&[("SERVER_NAME", "a")]).unwrap_err(), ConfigError::Twice { name: "SERVER_NAME".to_owned() });
    assert_eq!(Config::from_pairs([]).unwrap_err(), ConfigError::Missing { name: "SERVER_NAME" });
    for (given, value, name) in [
        ("TURN_URIS", "turn:a.org", "TURN_SHARED_SECRET"),
        ("TURN_SHARED_SECRET", "sesame", "TURN_URIS"),
        ("TURN_CLOUDFLARE_KEY_ID", "key", "TURN_CLOUDFLARE_API_TOKEN"),
        ("TURN_CLOUDFLARE_API_TOKEN", "sesame", "TURN_CLOUDFLARE_KEY_ID"),
    ] {
        assert_eq!(config(&[(given, value)]).unwrap_err(), ConfigError::Missing { name });
    }
}

#[test]
fn calls_are_relayed_by_one_service() {
    let cloudflare = [("TURN_CLOUDFLARE_KEY_ID", "0a1b"), ("TURN_CLOUDFLARE_API_TOKEN", "sesame")];
    let Relay::Cloudflare { url, api_token } = config(&cloudflare).unwrap().turn.unwrap().relay else { panic!() };
    let path = "keys/0a1b/credentials/generate-ice-servers";
    assert_eq!((url, api_token.expose()), (format!("https://rtc.live.cloudflare.com/v1/turn/{path}"), "sesame"));
    let long = [cloudflare[0], cloudflare[1], ("TURN_USER_LIFETIME", "172801")];
    assert!(matches!(config(&long).unwrap_err(), ConfigError::BadValue { name: "TURN_USER_LIFETIME", .. }));
    let both = [cloudflare[0], cloudflare[1], ("TURN_URIS", "turn:a.org"), ("TURN_SHARED_SECRET", "sesame")];
    let error = config(&both).unwrap_err().to_string();
    assert_eq!(error, "TURN_URIS and TURN_CLOUDFLARE_KEY_ID: only one of them may be given");
}

#[test]
fn every_limit_has_its_keys_and_one_switch_turns_all_off() {
    for limited in RateLimited::ALL {
        for key in [Some(limited.key()), limited.group_key()].into_iter().flatten() {
            assert!(Config::KEYS.iter().any(|known| known.name == key), "{key}");
        }
    }
    assert!(config(&[("RATE_LIMITS", "off"), ("RC_MESSAGE", "1,1")]).unwrap().rate_limits.is_empty());
}

#[test]
fn a_server_name_may_carry_a_port() {
    let named = |name: &str| Config::from_pairs([("SERVER_NAME".to_owned(), name.to_owned())]);
    for name in ["localhost:8448", "hs1", "1.2.3.4", "[::1]:8448"] {
        assert_eq!(named(name).unwrap().public_baseurl, format!("https://{name}"));
    }
    for name in ["", "https://example.org", "example.org:port", "exa mple.org", "@alice:example.org"] {
        assert!(matches!(named(name), Err(ConfigError::BadValue { name: "SERVER_NAME", .. })), "{name}");
    }
}
