//! What a server answered.

use serde_json::Value;
use ureq::http::HeaderMap;

/// One HTTP answer with the request that caused it.
#[derive(Clone, Debug)]
#[must_use = "say `.ok()` or `.refused(…)`"]
pub struct Answer {
    pub request: String,
    pub status: u16,
    pub headers: HeaderMap,
    /// The JSON body, or `null` where there is none or it is not JSON.
    pub body: Value,
    /// The body as text.
    pub text: String,
    /// The body as it came.
    pub bytes: Vec<u8>,
}

impl Answer {
    /// The body of a 200.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}: {}", self.request, self.body);
        self.body
    }

    /// Asserts the status and the `errcode`.
    #[track_caller]
    pub fn refused(self, status: u16, errcode: &str) -> Value {
        let told = self.body["errcode"].as_str().unwrap_or("nothing");
        assert_eq!((self.status, told), (status, errcode), "{}: {}", self.request, self.body);
        assert!(self.body["error"].is_string(), "{}: a refusal explains itself: {}", self.request, self.body);
        self.body
    }

    /// Asserts the status alone, where the specification fixes no code.
    #[track_caller]
    pub fn status(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}: {}", self.request, self.body);
        self.body
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}
