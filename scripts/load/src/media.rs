//! Files: how fast they come and go, one and many at a time, how many thumbnails are made, and the memory that takes.
//!
//! Speeds are shown. Memory is judged: it may not grow with the size of files, nor much with their number.

use std::{cell::Cell, io::Cursor, slice, time::Duration};

use bytes::Bytes;
use futures_util::future::{try_join, try_join_all};
use image::{ImageFormat, Rgb, RgbImage};
use tokio::time::{Instant, sleep};

use crate::{
    Result,
    client::Origin,
    costs::Meter,
    growth::ISOLATE_MB_MAX,
    process,
    report::{Better, Budget, Report},
    samples::Samples,
    storm::{Bounds, storm},
    user::{Registrar, User},
};

const MB: usize = 1 << 20;
/// A file is sent in pieces of this size.
const PIECE_BYTES: usize = 64 << 10;
/// What a host may need more while files come and go than before, in MB, however many and large they are.
const TRANSFERS_MB_MAX: f64 = 64.0;
/// The same while thumbnails are made: two pictures at a time of 128 MB at most, and what is around them.
const THUMBNAILS_MB_MAX: f64 = 320.0;
/// When no further transfer is begun.
const TRANSFERS_LAST: Duration = Duration::from_secs(3600);
/// How often the memory of code that has one of its own is read.
const READ_EVERY: Duration = Duration::from_millis(50);
/// Who look at thumbnails at the same time.
const ONLOOKERS: usize = 4;
/// Pictures are as large as those of a telephone.
const PICTURE: (u32, u32) = (4_000, 3_000);

/// How much of everything.
pub(crate) struct Sizes {
    file_mb: usize,
    at_once: usize,
    /// How often one file is transferred alone.
    rounds: usize,
    /// The largest file, if the server takes one so large.
    large_mb: usize,
    /// Pictures of which each onlooker sees a thumbnail.
    pictures_each: usize,
}

impl Sizes {
    pub(crate) fn full() -> Self {
        Self { file_mb: 50, at_once: 16, rounds: 4, large_mb: 500, pictures_each: 8 }
    }

    pub(crate) fn quick() -> Self {
        Self { file_mb: 5, at_once: 16, rounds: 1, large_mb: 50, pictures_each: 1 }
    }
}

/// Measures uploads, downloads and thumbnails.
pub(crate) async fn media(
    origin: Origin,
    registrar: &Registrar,
    sizes: &Sizes,
    pids: &[u32],
    report: &mut Report,
) -> Result<()> {
    let mut meter = Meter::new(origin);
    let meter = if meter.is_there().await? { Some(meter) } else { None };
    let mut bench = Bench { meter, pids, report };
    let mut users = registrar.users("media", sizes.at_once.max(ONLOOKERS)).await?;
    let (alone, _) = users.split_first_mut().ok_or("no users")?;

    let limit = alone.asks_upload_size().await?;
    let bytes = (sizes.file_mb * MB).min(limit);
    let what = format!("{} MB, alone", bytes / MB);
    bench.transfers(&what, slice::from_mut(alone), bytes, sizes.rounds).await?;
    let large = (sizes.large_mb * MB).min(limit);
    if large > bytes {
        bench.transfers(&format!("{} MB, alone", large / MB), slice::from_mut(alone), large, 1).await?;
    }
    let together = users.get_mut(..sizes.at_once).unwrap_or_default();
    bench.transfers(&format!("{} MB, {} at once", bytes / MB, sizes.at_once), together, bytes, 1).await?;
    bench.thumbnails(users.get_mut(..ONLOOKERS).unwrap_or_default(), sizes.pictures_each).await
}

struct Bench<'a> {
    meter: Option<Meter>,
    pids: &'a [u32],
    report: &'a mut Report,
}

impl Bench<'_> {
    /// Everyone uploads files of this size and downloads them.
    async fn transfers(&mut self, what: &str, users: &mut [User], bytes: usize, rounds: usize) -> Result<()> {
        let megabytes = (bytes * users.len() * rounds) as f64 / MB as f64;
        let bounds = Bounds { time: TRANSFERS_LAST, count_each: rounds };
        let mut uploaders: Vec<_> = users.iter_mut().map(|user| (user, String::new())).collect();
        let uploads = storm(&mut uploaders, bounds, async |(user, mxc)| {
            let pieces = file(bytes, &user.id);
            *mxc = user.uploads(pieces).await?;
            Ok(())
        });
        let took = self.watched(&format!("upload of {what}"), TRANSFERS_MB_MAX, uploads).await?;
        self.report.rate(&format!("upload, {what}"), "MB/s", megabytes / took.as_secs_f64());
        let downloads = storm(&mut uploaders, bounds, async |(user, mxc)| match user.downloads(mxc).await? {
            length if length == bytes => Ok(()),
            length => Err(format!("{length} bytes came of {bytes}").into()),
        });
        let took = self.watched(&format!("download of {what}"), TRANSFERS_MB_MAX, downloads).await?;
        self.report.rate(&format!("download, {what}"), "MB/s", megabytes / took.as_secs_f64());
        Ok(())
    }

    /// Everyone sees thumbnails of pictures of their own, for the first time and again.
    async fn thumbnails(&mut self, users: &mut [User], each: usize) -> Result<()> {
        let mut onlookers = Vec::new();
        for (number, user) in users.iter_mut().enumerate() {
            let mut pictures = Vec::new();
            for count in 0..each {
                pictures.push(user.uploads(vec![picture(number * each + count)?.into()]).await?);
            }
            onlookers.push((user, pictures));
        }
        let count = (onlookers.len() * each) as f64;
        for what in ["made", "kept"] {
            let seen = try_join_all(onlookers.iter_mut().map(async |(user, pictures)| {
                let mut took = Vec::new();
                for mxc in pictures.iter() {
                    let began = Instant::now();
                    let path = format!("/_matrix/client/v1/media/thumbnail/{mxc}?width=96&height=96&method=crop");
                    user.gets(&path).await?;
                    took.push(began.elapsed());
                }
                Result::Ok(took)
            }));
            let mut samples = Samples::default();
            let name = format!("thumbnails {what}");
            let looking = async {
                samples = seen.await?.into_iter().flatten().collect();
                Ok(())
            };
            let took = self.watched(&name, THUMBNAILS_MB_MAX, looking).await?;
            self.report.rate(&name, "1/s", count / took.as_secs_f64());
            self.report.percentiles(&format!("thumbnail {what}"), &samples);
        }
        Ok(())
    }

    /// Does some work and judges the memory that it takes; answers how long it took.
    async fn watched<T>(&mut self, what: &str, mb_max: f64, work: impl Future<Output = Result<T>>) -> Result<Duration> {
        process::forget_peaks(self.pids);
        let (before_mb, began) = (process::resident_mb(self.pids), Instant::now());
        let is_apart = match &mut self.meter {
            Some(meter) => meter.read().await?.wasm_mb().is_some(),
            None => false,
        };
        let (wasm_mb, took) = match &mut self.meter {
            Some(meter) if is_apart => watch(meter, work).await?,
            _ => {
                work.await?;
                (None, began.elapsed())
            }
        };
        let peak_mb = process::peak_mb(self.pids);
        if let Some(peak_mb) = peak_mb {
            self.report.figure(&format!("memory, {what}"), "peak MB", peak_mb, Better::Lower);
        }
        match (wasm_mb, before_mb, peak_mb) {
            // The rest of such a process is the platform's.
            (Some(wasm_mb), ..) => {
                self.report.budget(Budget::at_most(&format!("{what}: MB of memory"), wasm_mb, ISOLATE_MB_MAX));
            }
            (None, Some(before_mb), Some(peak_mb)) if self.meter.is_some() => {
                let more_mb = peak_mb - before_mb;
                self.report.budget(Budget::at_most(&format!("{what}: MB more of memory"), more_mb, mb_max));
            }
            _ => {}
        }
        Ok(took)
    }
}

/// Does some work while the memory of the server's code is read, which has one of its own; answers the most it had, and
/// how long the work took.
async fn watch<T>(meter: &mut Meter, work: impl Future<Output = Result<T>>) -> Result<(Option<f64>, Duration)> {
    let (began, done) = (Instant::now(), Cell::new(None));
    let working = async {
        let outcome = work.await;
        done.set(Some(began.elapsed()));
        outcome
    };
    let watching = async {
        let mut most = None::<f64>;
        loop {
            let now = meter.read().await?.wasm_mb();
            most = [most, now].into_iter().flatten().reduce(f64::max);
            if let Some(took) = done.get() {
                return Ok((most, took));
            }
            sleep(READ_EVERY).await;
        }
    };
    let (_, watched) = try_join(working, watching).await?;
    Ok(watched)
}

/// A file that nobody else has, in pieces that all are the same memory but for the first.
fn file(bytes: usize, of: &str) -> Vec<Bytes> {
    let head = Bytes::from(of.to_owned()).slice(..of.len().min(bytes));
    let piece = Bytes::from((0..PIECE_BYTES).map(|place| (place % 251) as u8).collect::<Vec<_>>());
    let mut left = bytes - head.len();
    let mut pieces = vec![head];
    while left > 0 {
        let length = left.min(PIECE_BYTES);
        pieces.push(piece.slice(..length));
        left -= length;
    }
    pieces
}

/// A photograph, more or less; each number's is another, of 32.
fn picture(number: usize) -> Result<Vec<u8>> {
    let (width, height) = PICTURE;
    let tint = (number % 32 * 4) as u32;
    let colour = |x: u32, y: u32| {
        let grain = (x.wrapping_mul(2_654_435_761) ^ y.wrapping_mul(40_503)) >> 28;
        Rgb([(x * 255 / width) as u8, (y * 255 / height) as u8, (tint + grain * 8) as u8])
    };
    let mut file = Cursor::new(Vec::new());
    RgbImage::from_fn(width, height, colour).write_to(&mut file, ImageFormat::Jpeg)?;
    Ok(file.into_inner())
}
