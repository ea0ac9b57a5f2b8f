//! The store of media in R2.

use std::{cell::Cell, ops::Range, rc::Rc};

use bytes::BytesMut;
use futures_util::{FutureExt, StreamExt, TryStreamExt, future::try_join, stream};
use js_sys::{Array, Object, Promise, Reflect, Uint8Array};
use platform::{Blob, Blobs, Fault, LocalFuture, Pieces};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::{JsFuture, spawn_local};
use web_sys::{ReadableStream, WritableStream, WritableStreamDefaultWriter};
use worker::Env;

use crate::js::{self, Reading};

/// The binding of the bucket.
const BINDING: &str = "MEDIA";
/// The parts of an upload whose length is not known: R2 takes none smaller than 5 MiB but the last, and all must be of
/// one size. One part at a time is held in memory.
const PART_BYTES: usize = 6 * 1024 * 1024;

#[wasm_bindgen]
extern "C" {
    type Bucket;
    #[wasm_bindgen(method, catch)]
    fn get(this: &Bucket, key: &str, options: &JsValue) -> Result<Promise, JsValue>;
    #[wasm_bindgen(method, catch)]
    fn put(this: &Bucket, key: &str, value: &JsValue) -> Result<Promise, JsValue>;
    #[wasm_bindgen(method, catch)]
    fn delete(this: &Bucket, keys: &Array) -> Result<Promise, JsValue>;
    #[wasm_bindgen(method, catch, js_name = createMultipartUpload)]
    fn create_multipart_upload(this: &Bucket, key: &str) -> Result<Promise, JsValue>;

    /// What a bucket answers to `get`.
    type StoredObject;
    #[wasm_bindgen(method, getter)]
    fn body(this: &StoredObject) -> ReadableStream;

    #[derive(Clone)]
    type MultipartUpload;
    #[wasm_bindgen(method, catch, js_name = uploadPart)]
    fn upload_part(this: &MultipartUpload, number: u32, part: &Uint8Array) -> Result<Promise, JsValue>;
    #[wasm_bindgen(method, catch)]
    fn complete(this: &MultipartUpload, parts: &Array) -> Result<Promise, JsValue>;
    #[wasm_bindgen(method, catch)]
    fn abort(this: &MultipartUpload) -> Result<Promise, JsValue>;

    /// A pipe through which exactly so many bytes go.
    type FixedLengthStream;
    #[wasm_bindgen(constructor, catch)]
    fn new(length: f64) -> Result<FixedLengthStream, JsValue>;
    #[wasm_bindgen(method, getter)]
    fn readable(this: &FixedLengthStream) -> ReadableStream;
    #[wasm_bindgen(method, getter)]
    fn writable(this: &FixedLengthStream) -> WritableStream;
}

/// A bucket, for one request.
pub(crate) struct R2(Bucket);

fn failed(thrown: JsValue) -> Fault {
    js::fault("R2", &thrown)
}

async fn settled(promise: Result<Promise, JsValue>) -> Result<JsValue, Fault> {
    JsFuture::from(promise.map_err(failed)?).await.map_err(failed)
}

impl R2 {
    pub(crate) fn bound(env: &Env) -> Result<Self, Fault> {
        let bucket = Reflect::get(env, &BINDING.into()).map_err(failed)?;
        if bucket.is_object() {
            Ok(Self(bucket.unchecked_into()))
        } else {
            Err(Fault::new(format!("binding: there is no R2 bucket {BINDING}")))
        }
    }

    /// Sends the pieces through a pipe of their length: nothing is held back, and R2 keeps nothing unless all came.
    async fn put_known(&self, key: &str, length: u64, mut pieces: Pieces) -> Result<(), Fault> {
        let pipe = FixedLengthStream::new(length as f64).map_err(failed)?;
        let taken = settled(self.0.put(key, &pipe.readable()));
        let writer = Writer { writer: pipe.writable().get_writer().map_err(failed)?, is_closed: Cell::new(false) };
        let given = async {
            while let Some(piece) = pieces.next().await {
                let piece = Uint8Array::from(piece?.as_ref());
                JsFuture::from(writer.writer.write_with_chunk(&piece)).await.map_err(failed)?;
            }
            JsFuture::from(writer.writer.close()).await.map_err(failed)?;
            writer.is_closed.set(true);
            Ok(())
        };
        try_join(taken, given).await.map(drop)
    }

    /// Sends the pieces in parts, or at once if they are few.
    async fn put_unknown(&self, key: &str, mut pieces: Pieces) -> Result<(), Fault> {
        let mut upload: Option<Upload> = None;
        let mut part = BytesMut::new();
        while let Some(piece) = pieces.next().await {
            part.extend_from_slice(&piece?);
            while part.len() >= PART_BYTES {
                let full = part.split_to(PART_BYTES);
                let upload = match &mut upload {
                    Some(upload) => upload,
                    None => upload.insert(Upload::begin(&self.0, key).await?),
                };
                upload.add(&full).await?;
            }
        }
        match upload {
            None => settled(self.0.put(key, &Uint8Array::from(part.as_ref()))).await.map(drop),
            Some(mut upload) => {
                if !part.is_empty() {
                    upload.add(&part).await?;
                }
                upload.complete().await
            }
        }
    }
}

impl Blobs for R2 {
    fn put<'a>(&'a self, key: &'a str, length: Option<u64>, pieces: Pieces) -> LocalFuture<'a, Result<(), Fault>> {
        Box::pin(async move {
            let Some(length) = length else { return self.put_unknown(key, pieces).await };
            let put = self.put_known(key, length, pieces).await;
            if put.is_err() {
                // R2 had all that was promised before more came.
                settled(self.0.delete(&Array::of1(&key.into()))).await?;
            }
            put
        })
    }

    fn get<'a>(&'a self, key: &'a str, range: Range<u64>) -> LocalFuture<'a, Result<Option<Blob>, Fault>> {
        Box::pin(async move {
            let [bytes, options] = [Object::new(), Object::new()];
            let length = range.end.saturating_sub(range.start);
            Reflect::set(&bytes, &"offset".into(), &(range.start as f64).into()).map_err(failed)?;
            Reflect::set(&bytes, &"length".into(), &(length as f64).into()).map_err(failed)?;
            Reflect::set(&options, &"range".into(), &bytes).map_err(failed)?;
            let found = settled(self.0.get(key, &options)).await?;
            if found.is_null() {
                return Ok(None);
            }
            let body = found.unchecked_into::<StoredObject>().body();
            Ok(Some(Blob { pieces: pieces_of(body.clone()), of_host: Some(Box::new(body)) }))
        })
    }

    fn delete<'a>(&'a self, keys: &'a [String]) -> LocalFuture<'a, Result<(), Fault>> {
        Box::pin(async move {
            if keys.is_empty() {
                return Ok(());
            }
            let keys: Array = keys.iter().map(|key| JsValue::from_str(key)).collect();
            settled(self.0.delete(&keys)).await.map(drop)
        })
    }
}

/// The bytes of a stream, which is locked by the first that is asked for.
fn pieces_of(body: ReadableStream) -> Pieces {
    let reading = async move { Reading::of(&body).map(|reading| Reading::on(Rc::new(reading))) };
    Box::pin(stream::once(reading).try_flatten().map_err(failed))
}

/// The entrance of a pipe. Dropped before it is closed, it breaks the pipe, and what reads it fails.
struct Writer {
    writer: WritableStreamDefaultWriter,
    is_closed: Cell<bool>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.is_closed.get() {
            spawn_local(JsFuture::from(self.writer.abort()).map(drop));
        }
    }
}

/// An upload in parts. Dropped before it is complete, it is given up, and R2 forgets its parts.
struct Upload {
    upload: MultipartUpload,
    parts: Array,
    is_complete: bool,
}

impl Upload {
    async fn begin(bucket: &Bucket, key: &str) -> Result<Self, Fault> {
        let upload = settled(bucket.create_multipart_upload(key)).await?;
        Ok(Self { upload: upload.unchecked_into(), parts: Array::new(), is_complete: false })
    }

    async fn add(&mut self, part: &[u8]) -> Result<(), Fault> {
        let number = self.parts.length().saturating_add(1);
        self.parts.push(&settled(self.upload.upload_part(number, &Uint8Array::from(part))).await?);
        Ok(())
    }

    async fn complete(mut self) -> Result<(), Fault> {
        settled(self.upload.complete(&self.parts)).await?;
        self.is_complete = true;
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.is_complete
            && let Ok(aborted) = self.upload.abort()
        {
            spawn_local(JsFuture::from(aborted).map(drop));
        }
    }
}
