//! `GET /media/config`.

use js_int::UInt;
use ruma_client_api::{authenticated_media::get_media_config::v1, media::get_media_config::v3};

use crate::{Caller, Context, Failure, Routes};

pub(super) fn routes(routes: &mut Routes) {
    routes.add(config);
    routes.add(config_deprecated);
}

async fn config(cx: &Context, _: Caller, _: v1::Request) -> Result<v1::Response, Failure> {
    Ok(v1::Response::new(upload_size(cx)))
}

async fn config_deprecated(cx: &Context, _: Caller, _: v3::Request) -> Result<v3::Response, Failure> {
    Ok(v3::Response::new(upload_size(cx)))
}

fn upload_size(cx: &Context) -> UInt {
    UInt::new_saturating(cx.config().max_upload_size)
}
