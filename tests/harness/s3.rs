//! Buckets in an S3-compatible service.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::{Client, server::is_in_ci};

/// A bucket that nobody else uses.
pub struct S3 {
    endpoint: String,
    bucket: String,
}

impl S3 {
    /// Makes one. `None`, after saying so, when `MYELIN_TEST_S3_URL` names no service; fails then if `CI` is `true`.
    pub fn create() -> Option<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let Ok(endpoint) = std::env::var("MYELIN_TEST_S3_URL") else {
            assert!(!is_in_ci(), "MYELIN_TEST_S3_URL is not set");
            println!("skipped: MYELIN_TEST_S3_URL is not set");
            return None;
        };
        let bucket = format!("myelin-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let s3 = Self { endpoint, bucket };
        let made = s3.asks("PUT", "");
        assert_eq!(made.0, 200, "no bucket: {}", made.1);
        Some(s3)
    }

    /// What a server needs to keep media there.
    pub fn settings(&self) -> Vec<(&str, &str)> {
        vec![
            ("S3_ENDPOINT", &self.endpoint),
            ("S3_BUCKET", &self.bucket),
            ("S3_PREFIX", "media/"),
            ("S3_ACCESS_KEY_ID", "id"),
            ("S3_SECRET_ACCESS_KEY", "secret"),
        ]
    }

    fn asks(&self, method: &str, query: &str) -> (u16, String) {
        let (path, body) = (format!("/{}{query}", self.bucket), (method == "PUT").then(Vec::new));
        let answer = Client::new(&self.endpoint).send_bytes(method, &path, &[], body);
        (answer.status, answer.text)
    }

    /// The names of all objects.
    #[track_caller]
    pub fn objects(&self) -> Vec<String> {
        self.names("?list-type=2")
    }

    /// The objects that uploads in parts are to become.
    #[track_caller]
    pub fn unfinished(&self) -> Vec<String> {
        self.names("?uploads")
    }

    #[track_caller]
    fn names(&self, query: &str) -> Vec<String> {
        let (status, listed) = self.asks("GET", query);
        assert_eq!(status, 200, "{listed}");
        let name = |rest: &str| rest.split("</Key>").next().unwrap_or_default().to_owned();
        listed.split("<Key>").skip(1).map(name).collect()
    }
}
