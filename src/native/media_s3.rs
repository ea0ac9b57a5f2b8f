//! The store of media: an S3-compatible service.
//!
//! A file is an object. What is larger than one part goes there in parts, as it comes, and becomes an object when it is
//! whole. Parts of what did not become whole are paid for, too: they are removed at once, or when the next process
//! starts.

mod request;

use std::{cell::RefCell, ops::Range, rc::Rc, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use clap::Args;
use domain::config::OutgoingRules;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::{Method, StatusCode};
use platform::{Blob, Blobs, Fault, LocalFuture, Pieces};
use rusty_s3::{Bucket, Credentials, UrlStyle};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};
use tracing::warn;

use self::request::{S3Request, plain, texts};
use crate::outgoing::{Connections, Network};

/// How much is sent at once, in bytes: S3 takes no fewer than 5 MiB, and 10,000 parts.
const PART_BYTES: usize = 5 << 20;
/// Parts that are in memory at the same time, of all uploads. One more waits for its place, and so does who sends it.
const PARTS_MAX: usize = 6;
/// How much of an upload is in memory before it needs a place, in bytes: most are smaller.
const SMALL_BYTES: usize = 256 << 10;
/// How long a part may take to come: a place is nobody's to keep.
const PART_TIME: Duration = Duration::from_mins(10);
/// Objects that are deleted at the same time.
const DELETED_AT_ONCE: usize = 8;
/// How often a start asks for what is unfinished: each answer has up to a thousand.
const LISTED_MAX: usize = 100;
/// The length of our objects' names after the prefix: hexadecimal digits.
const NAME_LENGTH: usize = 32;

/// Where the service is, and who we are there.
#[derive(Args)]
pub(crate) struct S3Options {
    /// Keep media in an S3-compatible service at this URL instead of the data directory. No other server may use its
    /// bucket with the same prefix
    #[arg(long, env = "MYELIN_S3_ENDPOINT", value_name = "URL",
        requires_all = ["s3_bucket", "s3_access_key_id", "s3_secret_access_key"])]
    pub s3_endpoint: Option<url::Url>,
    /// The bucket
    #[arg(long, env = "MYELIN_S3_BUCKET", value_name = "NAME")]
    pub s3_bucket: Option<String>,
    /// The bucket's region
    #[arg(long, env = "MYELIN_S3_REGION", default_value = "us-east-1", value_name = "NAME")]
    pub s3_region: String,
    /// What the objects' names begin with, such as media/
    #[arg(long, env = "MYELIN_S3_PREFIX", default_value = "", value_name = "TEXT")]
    pub s3_prefix: String,
    /// Whether the bucket is named in the URL's path, or in the name of its host
    #[arg(long, env = "MYELIN_S3_URL_STYLE", default_value = "path", value_name = "STYLE")]
    pub s3_url_style: S3UrlStyle,
    /// Who we are there
    #[arg(long, env = "MYELIN_S3_ACCESS_KEY_ID", hide_env_values = true, value_name = "ID")]
    pub s3_access_key_id: Option<String>,
    /// And the proof; better given in the environment, where other users of this machine do not see it
    #[arg(long, env = "MYELIN_S3_SECRET_ACCESS_KEY", hide_env_values = true, value_name = "KEY")]
    pub s3_secret_access_key: Option<String>,
}

/// Where a URL names the bucket.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum S3UrlStyle {
    Path,
    Host,
}

/// What all threads connect with.
#[derive(Clone)]
pub(crate) struct S3Bucket {
    bucket: Arc<Bucket>,
    credentials: Arc<Credentials>,
    prefix: Arc<str>,
    network: Network,
    /// Places for parts.
    places: Arc<Semaphore>,
}

impl S3Bucket {
    /// The bucket that the options name, if they name one.
    pub(crate) fn named(options: &S3Options, rules: &OutgoingRules) -> Result<Option<Self>, Fault> {
        let S3Options { s3_endpoint: Some(endpoint), s3_bucket: Some(bucket), .. } = options else { return Ok(None) };
        let (Some(id), Some(key)) = (&options.s3_access_key_id, &options.s3_secret_access_key) else {
            return Err(Fault::new("S3: there are no credentials"));
        };
        let style = match options.s3_url_style {
            S3UrlStyle::Path => UrlStyle::Path,
            S3UrlStyle::Host => UrlStyle::VirtualHost,
        };
        let bucket = Bucket::new(endpoint.clone(), style, bucket.clone(), options.s3_region.clone())
            .map_err(|error| Fault::new(format!("S3: {error}")))?;
        // The operator's own word, and nobody else's, leads there.
        let rules = OutgoingRules { allow_private_addresses: true, deny_addresses: vec![], ..rules.clone() };
        Ok(Some(Self {
            bucket: Arc::new(bucket),
            credentials: Arc::new(Credentials::new(id.clone(), key.clone())),
            prefix: options.s3_prefix.as_str().into(),
            network: Network::new(&rules)?,
            places: Arc::new(Semaphore::new(PARTS_MAX)),
        }))
    }

    /// One thread's way there.
    pub(crate) fn connect(self) -> S3 {
        S3 { connections: self.network.connections(), of: self, abandoned: Rc::default() }
    }

    /// Clears away what the last process did not get to finish: no other may use the bucket's prefix.
    ///
    /// # Errors
    /// The bucket is not there, or not ours.
    pub(crate) async fn clear(self) -> Result<(), Fault> {
        let s3 = self.connect();
        let mut page = None;
        for _ in 0..LISTED_MAX {
            let listed = s3.unfinished(page.as_ref()).await.map_err(|fault| fault.within("the S3 bucket"))?;
            for upload in listed.uploads.iter().filter(|upload| s3.is_ours(&upload.object)) {
                s3.abort(upload).await?;
            }
            page = listed.next;
            if page.is_none() {
                break;
            }
        }
        Ok(())
    }
}

/// The store of media, as one thread reaches it.
pub(crate) struct S3 {
    of: S3Bucket,
    connections: Connections,
    /// Uploads that nobody goes on with.
    abandoned: Rc<RefCell<Vec<Upload>>>,
}

/// An upload in parts.
struct Upload {
    object: String,
    id: String,
}

/// Uploads that are not whole; and the last of them, if there are more.
struct Unfinished {
    uploads: Vec<Upload>,
    next: Option<Upload>,
}

/// What came of an upload and is not yet sent.
#[derive(Default)]
struct Part {
    bytes: BytesMut,
    /// Where it needs one; and until when it has it.
    place: Option<(OwnedSemaphorePermit, Instant)>,
}

impl Part {
    /// The next piece.
    ///
    /// # Errors
    /// What ends the pieces; it does not come while there is a place for it.
    async fn next(&self, pieces: &mut Pieces) -> Result<Option<Bytes>, Fault> {
        match &self.place {
            Some((_, until)) => match timeout_at(*until, pieces.next()).await {
                Ok(piece) => piece.transpose(),
                Err(_) => Err(Fault::new("S3: an upload comes too slowly")),
            },
            None => pieces.next().await.transpose(),
        }
    }

    /// Takes from a piece what there is room for, once there is a place for it.
    async fn take(&mut self, piece: &mut Bytes, places: &Arc<Semaphore>) -> Result<(), Fault> {
        if self.place.is_none() && self.bytes.len().saturating_add(piece.len()) > SMALL_BYTES {
            let place = places.clone().acquire_owned().await;
            let place = place.map_err(|_| Fault::retriable("the host is shutting down"))?;
            self.place = Some((place, Instant::now() + PART_TIME));
            // At once, that it is never copied to where there is more room.
            self.bytes.reserve(PART_BYTES.saturating_sub(self.bytes.len()));
        }
        let room = PART_BYTES.saturating_sub(self.bytes.len());
        self.bytes.extend_from_slice(&piece.split_to(room.min(piece.len())));
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.bytes.len() >= PART_BYTES
    }
}

/// An upload that is under way. Dropped before it is over, it is abandoned.
struct UnderWay {
    upload: Option<Upload>,
    abandoned: Rc<RefCell<Vec<Upload>>>,
    /// What the service calls the parts.
    etags: Vec<String>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.abandoned.borrow_mut().extend(self.upload.take());
    }
}

impl S3 {
    fn object(&self, key: &str) -> String {
        format!("{}{key}", self.of.prefix)
    }

    async fn write(&self, object: &str, length: Option<u64>, mut pieces: Pieces) -> Result<(), Fault> {
        let (mut part, mut written) = (Part::default(), 0_u64);
        let mut under_way = None;
        while let Some(mut piece) = part.next(&mut pieces).await? {
            written = written.saturating_add(piece.len() as u64);
            loop {
                part.take(&mut piece, &self.of.places).await?;
                if !part.is_full() {
                    break;
                }
                let begun = match &mut under_way {
                    Some(begun) => begun,
                    None => under_way.insert(self.begin(object).await?),
                };
                self.add(begun, std::mem::take(&mut part)).await?;
            }
        }
        if length.is_some_and(|length| length != written) {
            return Err(Fault::new(format!("{object} has {written} bytes, and another length was promised")));
        }
        match under_way {
            None => {
                let Part { bytes, place: _place } = part;
                self.send(S3Request::new(Method::PUT, object).with_body(bytes.freeze())).await?.done().await.map(drop)
            }
            Some(mut under_way) => {
                if !part.bytes.is_empty() {
                    self.add(&mut under_way, part).await?;
                }
                self.complete(under_way).await
            }
        }
    }

    async fn begin(&self, object: &str) -> Result<UnderWay, Fault> {
        let begun = self.send(S3Request::new(Method::POST, object).with("uploads", "")).await?.done().await?;
        let id = texts(&begun, "UploadId").next().ok_or_else(|| Fault::new("S3: an upload without a name"))?;
        let upload = Upload { object: object.to_owned(), id: id.to_owned() };
        Ok(UnderWay { upload: Some(upload), abandoned: self.abandoned.clone(), etags: vec![] })
    }

    /// Sends a part, which has its place until it is there.
    async fn add(&self, under_way: &mut UnderWay, part: Part) -> Result<(), Fault> {
        let Part { bytes, place: _place } = part;
        let Some(upload) = &under_way.upload else { return Ok(()) };
        let number = under_way.etags.len().saturating_add(1).to_string();
        let request =
            S3Request::new(Method::PUT, &upload.object).with("partNumber", &number).with("uploadId", &upload.id);
        let answered = self.send(request.with_body(bytes.freeze())).await?;
        let etag = answered.etag().ok_or_else(|| Fault::new("S3: a part without an ETag"))?;
        answered.done().await?;
        under_way.etags.push(etag);
        Ok(())
    }

    async fn complete(&self, mut under_way: UnderWay) -> Result<(), Fault> {
        let Some(upload) = &under_way.upload else { return Ok(()) };
        let part = |(number, etag): (usize, &String)| {
            format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>")
        };
        let parts: String = (1..).zip(&under_way.etags).map(part).collect();
        let body = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
        let request = S3Request::new(Method::POST, &upload.object).with("uploadId", &upload.id).with_body(body.into());
        let answered = self.send(request).await?;
        // It was done, and the answer lost: then there is no such upload any more.
        let is_done = answered.status() == StatusCode::NOT_FOUND && self.exists(&upload.object).await?;
        if !is_done {
            // The service may find out that it fails after it has said that it does not.
            let told = answered.done().await?;
            if told.contains("<Error>") {
                return Err(Fault::new(format!("S3: an upload is not completed: {told}")));
            }
        }
        under_way.upload = None;
        Ok(())
    }

    async fn exists(&self, object: &str) -> Result<bool, Fault> {
        Ok(self.send(S3Request::new(Method::HEAD, object)).await?.status() == StatusCode::OK)
    }

    /// Removes the parts of an upload that does not become whole.
    async fn abort(&self, upload: &Upload) -> Result<(), Fault> {
        let request = S3Request::new(Method::DELETE, &upload.object).with("uploadId", &upload.id);
        self.send(request).await?.done_or_gone().await
    }

    async fn abort_abandoned(&self) {
        let abandoned = self.abandoned.take();
        for upload in abandoned {
            if let Err(fault) = self.abort(&upload).await {
                warn!(%fault, "an upload that broke off still has its parts");
                self.abandoned.borrow_mut().push(upload);
            }
        }
    }

    /// Whether an object is one of this prefix, and of no longer one: those of others may be in the bucket, too.
    fn is_ours(&self, object: &str) -> bool {
        let name = object.strip_prefix(&*self.of.prefix).unwrap_or_default();
        name.len() == NAME_LENGTH && name.bytes().all(|byte| byte.is_ascii_hexdigit())
    }

    /// Uploads that are not whole, after one of them.
    async fn unfinished(&self, after: Option<&Upload>) -> Result<Unfinished, Fault> {
        let mut request = S3Request::new(Method::GET, "").with("uploads", "").with("prefix", &self.of.prefix);
        if let Some(Upload { object, id }) = after {
            request = request.with("key-marker", object).with("upload-id-marker", id);
        }
        let listed = self.send(request).await?.done().await?;
        let uploads = listed.split("<Upload>").skip(1).filter_map(|upload| {
            let (object, id) = (texts(upload, "Key").next()?, texts(upload, "UploadId").next()?);
            Some(Upload { object: plain(object), id: id.to_owned() })
        });
        let is_all = texts(&listed, "IsTruncated").next() != Some("true");
        let next = texts(&listed, "NextKeyMarker").zip(texts(&listed, "NextUploadIdMarker")).next();
        let next = next.filter(|_| !is_all).map(|(object, id)| Upload { object: plain(object), id: id.to_owned() });
        Ok(Unfinished { uploads: uploads.collect(), next })
    }

    async fn read(&self, key: &str, range: Range<u64>) -> Result<Option<Blob>, Fault> {
        let object = self.object(key);
        let answered = self.send(S3Request::new(Method::GET, &object).with_range(&range)).await?;
        match answered.status() {
            StatusCode::NOT_FOUND => Ok(None),
            StatusCode::PARTIAL_CONTENT => Ok(Some(Blob::new(answered.pieces()))),
            _ => Err(answered.refused().await),
        }
    }
}

impl Blobs for S3 {
    fn put<'a>(&'a self, key: &'a str, length: Option<u64>, pieces: Pieces) -> LocalFuture<'a, Result<(), Fault>> {
        Box::pin(async move {
            let outcome = self.write(&self.object(key), length, pieces).await;
            self.abort_abandoned().await;
            outcome
        })
    }

    fn get<'a>(&'a self, key: &'a str, range: Range<u64>) -> LocalFuture<'a, Result<Option<Blob>, Fault>> {
        Box::pin(self.read(key, range))
    }

    fn delete<'a>(&'a self, keys: &'a [String]) -> LocalFuture<'a, Result<(), Fault>> {
        let delete = async |key: &String| {
            let object = self.object(key);
            self.send(S3Request::new(Method::DELETE, &object)).await?.done_or_gone().await
        };
        let deleting = stream::iter(keys).map(delete).buffer_unordered(DELETED_AT_ONCE);
        Box::pin(deleting.try_collect::<()>())
    }
}

#[cfg(test)]
mod tests {
    use std::{ops::AsyncFnOnce, pin::pin, sync::Arc};

    use bytes::{Bytes, BytesMut};
    use domain::config::OutgoingRules;
    use futures_util::{StreamExt, stream};
    use http::Method;
    use platform::{Blobs, Fault, Pieces, contract};
    use tokio::{sync::Semaphore, time::Instant};

    use super::{PART_BYTES, PARTS_MAX, Part, S3, S3Bucket, S3Options, S3Request, S3UrlStyle, SMALL_BYTES};
    use crate::actor_host::run_local;

    /// A bucket of its own in the service at `MYELIN_TEST_S3_URL`; nothing happens without one.
    fn with_bucket(name: &'static str, test: impl AsyncFnOnce(S3Bucket)) {
        let Ok(endpoint) = std::env::var("MYELIN_TEST_S3_URL") else {
            let in_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
            assert!(!in_ci, "MYELIN_TEST_S3_URL is not set");
            eprintln!("skipped: MYELIN_TEST_S3_URL is not set");
            return;
        };
        let options = S3Options {
            s3_endpoint: Some(endpoint.parse().unwrap()),
            s3_bucket: Some(format!("{name}-{}", std::process::id())),
            s3_region: "us-east-1".to_owned(),
            s3_prefix: "some where/".to_owned(),
            s3_url_style: S3UrlStyle::Path,
            s3_access_key_id: Some("id".to_owned()),
            s3_secret_access_key: Some("secret".to_owned()),
        };
        let bucket = S3Bucket::named(&options, &OutgoingRules::default()).unwrap().unwrap();
        run_local("a test", 1, || async move {
            let s3 = bucket.clone().connect();
            s3.send(S3Request::new(Method::PUT, "")).await.unwrap().done().await.unwrap();
            test(bucket).await;
        });
    }

    async fn unfinished(s3: &S3) -> usize {
        s3.unfinished(None).await.unwrap().uploads.len()
    }

    fn part(length: usize) -> Part {
        Part { bytes: BytesMut::zeroed(length), place: None }
    }

    #[test]
    fn objects_keep_the_contract_and_leave_nothing_unfinished() {
        with_bucket("contract", async |bucket| {
            let s3 = bucket.connect();
            let outcomes = contract::blobs(&s3, "test").await;
            assert_eq!(contract::failures(&outcomes), "");
            assert!(outcomes.len() > 5);
            assert_eq!(unfinished(&s3).await, 0);
        });
    }

    #[test]
    fn what_a_process_that_died_was_sending_is_cleared_away() {
        with_bucket("clearing", async |bucket| {
            let s3 = bucket.clone().connect();
            let ours = (0..3).map(|number| s3.object(&format!("{number:032x}")));
            // Of others, whose prefixes begin like ours, or have ours begin like theirs.
            let others =
                [format!("{}2{:032x}", s3.of.prefix, 1), s3.object(&format!("x/{:032x}", 1)), format!("{:032x}", 1)];
            for object in ours.chain(others.clone()) {
                let mut under_way = s3.begin(&object).await.unwrap();
                s3.add(&mut under_way, part(PART_BYTES)).await.unwrap();
                std::mem::forget(under_way);
            }
            assert_eq!(unfinished(&s3).await, 5);
            bucket.clone().clear().await.unwrap();
            assert_eq!(unfinished(&s3).await, 2);
        });
    }

    #[test]
    fn what_breaks_off_leaves_no_parts() {
        with_bucket("broken", async |bucket| {
            let s3 = bucket.connect();
            let large = stream::iter([Ok(vec![0; PART_BYTES * 2 + 1].into()), Err(Fault::new("cut"))]);
            assert!(s3.put("cut", None, Box::pin(large)).await.is_err());
            assert_eq!(unfinished(&s3).await, 0);
            // Nobody is left to wait for this one, and so the next removes it.
            let endless = stream::iter([Ok(vec![0; PART_BYTES].into())]).chain(stream::pending());
            let put = s3.put("dropped", None, Box::pin(endless));
            let late = tokio::time::timeout(std::time::Duration::from_secs(2), put).await;
            assert!(late.is_err());
            assert_eq!(unfinished(&s3).await, 1);
            s3.put("whole", None, Box::pin(stream::iter([Ok("whole".into())]))).await.unwrap();
            assert_eq!(unfinished(&s3).await, 0);
        });
    }

    #[test]
    fn only_so_many_parts_are_in_memory() {
        with_bucket("places", async |bucket| {
            let (s3, places) = (bucket.clone().connect(), bucket.places.clone());
            let taken = places.clone().acquire_many_owned(PARTS_MAX as u32).await.unwrap();
            let pieces = || stream::iter((0..90).map(|_| Ok(vec![0; 100_000].into())));
            let large = s3.put("large", Some(9_000_000), Box::pin(pieces()));
            let small = s3.put("small", None, Box::pin(pieces().take(2)));
            // The small one needs no place; the large one waits for one.
            let mut large = pin!(large);
            tokio::select! {
                biased;
                _ = &mut large => panic!("it had no place"),
                outcome = small => outcome.unwrap(),
            }
            drop(taken);
            large.await.unwrap();
            assert_eq!(places.available_permits(), PARTS_MAX);
            assert!(s3.exists(&s3.object("large")).await.unwrap());
        });
    }

    #[test]
    fn a_part_takes_what_it_has_room_for() {
        run_local("a test", 1, || async {
            let places = Arc::new(Semaphore::new(PARTS_MAX));
            let (mut part, mut piece) = (Part::default(), Bytes::from(vec![7; SMALL_BYTES]));
            part.take(&mut piece, &places).await.unwrap();
            assert!(piece.is_empty() && part.place.is_none() && !part.is_full());
            let mut piece = Bytes::from(vec![7; 2 * PART_BYTES]);
            part.take(&mut piece, &places).await.unwrap();
            assert_eq!((piece.len(), places.available_permits()), (PART_BYTES + SMALL_BYTES, PARTS_MAX - 1));
            assert!(part.is_full() && part.bytes.capacity() == PART_BYTES);
            drop(part);
            assert_eq!(places.available_permits(), PARTS_MAX);
        });
    }

    #[test]
    fn who_sends_too_slowly_has_no_place_for_long() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let place = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
            let part = Part { place: Some((place, Instant::now())), ..Part::default() };
            let mut pieces: Pieces = Box::pin(stream::pending());
            assert!(part.next(&mut pieces).await.is_err());
        });
    }

    #[test]
    fn a_bucket_that_is_not_there_is_said_to_be_so() {
        with_bucket("known", async |bucket| {
            let other = S3Bucket { bucket: std::sync::Arc::new(other_bucket(&bucket)), ..bucket };
            let fault = other.clear().await.unwrap_err().to_string();
            assert!(fault.contains("NoSuchBucket") && fault.contains("404"), "{fault}");
        });
    }

    fn other_bucket(bucket: &S3Bucket) -> rusty_s3::Bucket {
        let mut endpoint = bucket.bucket.base_url().clone();
        endpoint.set_path("/");
        rusty_s3::Bucket::new(endpoint, rusty_s3::UrlStyle::Path, "not-there", "us-east-1").unwrap()
    }
}
