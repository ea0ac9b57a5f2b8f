//! Pages that people see in their browsers.

use bytes::Bytes;
use http::{HeaderValue, Response, header};

/// The pages load nothing, run their own scripts only, speak to this server only, and stand in no frame.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
/// As [`POLICY`], for a page whose form leads on to elsewhere, and that runs nothing.
const POLICY_OF_LEAVING: &str = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self' https: http:; \
                                 base-uri 'none'; frame-ancestors 'none'";

/// A text as it stands in a page.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// As [`POLICY`], for a page on which somebody shows that they are a person.
const POLICY_OF_CAPTCHA: &str = "default-src 'none'; script-src https://www.google.com/recaptcha/ \
                                 https://www.gstatic.com/recaptcha/; frame-src https://www.google.com/recaptcha/ \
                                 https://recaptcha.google.com/recaptcha/; style-src 'unsafe-inline'; form-action 'self'; \
                                 base-uri 'none'; frame-ancestors 'none'";

/// A page.
pub(crate) fn page(html: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(html));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A page that has a challenge of reCAPTCHA.
pub(crate) fn page_with_captcha(html: String) -> Response<Bytes> {
    let mut response = page(html);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY_OF_CAPTCHA));
    // Its keys are good at certain sites only.
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("strict-origin"));
    response
}

/// A page with a form whose answer sends its reader elsewhere.
pub(crate) fn page_that_leaves(html: String) -> Response<Bytes> {
    let mut response = page(html);
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY_OF_LEAVING));
    response
}
