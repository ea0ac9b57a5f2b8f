//! Whether somebody is a person, as reCAPTCHA has it. Spec: "Google ReCaptcha".

use domain::{Refusal, config::Recaptcha};
use platform::Fault;
use serde::{Deserialize, Serialize};

use crate::{
    Context, Failure,
    named_service::{FORM, Post},
};

/// The longest response of a client, in bytes.
const RESPONSE_BYTES_MAX: usize = 8 * 1024;

/// Whether this is what somebody got for a solved challenge, who did not use it before.
///
/// # Errors
/// 502 where nobody says so.
pub(crate) async fn is_solved(cx: &Context, recaptcha: &Recaptcha, response: &str) -> Result<bool, Failure> {
    #[derive(Serialize)]
    struct Asked<'a> {
        secret: &'a str,
        response: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        remoteip: Option<String>,
    }
    #[derive(Deserialize)]
    struct Told {
        success: bool,
    }
    if response.is_empty() || response.len() > RESPONSE_BYTES_MAX {
        return Ok(false);
    }
    let remoteip = cx.client_address().map(|address| address.0.to_string());
    let asked = Asked { secret: recaptcha.private_key.expose(), response, remoteip };
    let body = serde_html_form::to_string(&asked).map_err(|error| Fault::new(error.to_string()))?;
    let post = Post { url: &recaptcha.verify_url, content_type: FORM, bearer: None, body: body.into() };
    let told = post.asks::<Told>(cx).await?.map(|told| told.success);
    Ok(told.map_err(|error| {
        tracing::warn!(error, "reCAPTCHA does not say who is a person");
        Refusal::OtherServer("The captcha service does not answer: try again later".to_owned())
    })?)
}
