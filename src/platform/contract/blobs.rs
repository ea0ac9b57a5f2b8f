//! The contract of [`Blobs`].

use std::{
    cell::Cell,
    future::poll_fn,
    ops::Range,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{StreamExt as _, future::join_all, stream};

use super::{Broken, Outcome, outcome, refused, same};
use crate::{Blob, Blobs, Fault, Pieces};

/// Beyond what any store holds in memory at once.
const LARGE_BYTES: u64 = 20 * 1024 * 1024 + 3;
const PIECE_BYTES: usize = 64 * 1024;

/// The contract of [`Blobs`], on a store that has no keys that begin with `run`; all it made is deleted again.
pub async fn blobs(blobs: &dyn Blobs, run: &str) -> Vec<Outcome> {
    let key = |name: &str| format!("{run}-{name}");
    vec![
        outcome("what is put is got back, whole and in ranges", put_and_get(blobs, &key("a")).await),
        outcome("a large file goes through, its length known", large(blobs, &key("b"), Some(LARGE_BYTES)).await),
        outcome("a large file goes through, its length unknown", large(blobs, &key("c"), None).await),
        outcome("an empty file is a file", empty(blobs, &key("d")).await),
        outcome("a put that is cut short leaves nothing", cut_short(blobs, &key("e")).await),
        outcome("a put of another length than promised leaves nothing", other_length(blobs, &key("f")).await),
        outcome("a put that is dropped may be made again", dropped(blobs, &key("g")).await),
        outcome("what is deleted is gone, and may be deleted again", deleted(blobs, &key("h")).await),
        outcome("puts at once are each whole", at_once(blobs, &key("i")).await),
        outcome("a file may be left half read", half_read(blobs, &key("j")).await),
    ]
}

/// The bytes of a file as pieces: each byte says where it stands.
fn written(length: u64) -> Pieces {
    let starts = (0..length).step_by(PIECE_BYTES);
    let pieces = starts.map(move |start| Ok(bytes_of(start..length.min(start + PIECE_BYTES as u64))));
    Box::pin(stream::iter(pieces))
}

fn bytes_of(range: Range<u64>) -> Bytes {
    range.map(|place| (place % 251) as u8).collect::<Vec<u8>>().into()
}

async fn got(blobs: &dyn Blobs, key: &str, range: Range<u64>) -> Result<Option<Vec<u8>>, Fault> {
    let Some(Blob { mut pieces, .. }) = blobs.get(key, range).await? else { return Ok(None) };
    let mut got = Vec::new();
    while let Some(piece) = pieces.next().await {
        got.extend_from_slice(&piece?);
    }
    Ok(Some(got))
}

async fn put_and_get(blobs: &dyn Blobs, key: &str) -> Result<(), Broken> {
    same(got(blobs, key, 0..1).await?, None)?;
    blobs.put(key, Some(100_000), written(100_000)).await?;
    for range in [0..100_000, 0..1, 99_999..100_000, 65_535..65_538, 1_000..90_000] {
        same(got(blobs, key, range.clone()).await?, Some(bytes_of(range).to_vec()))?;
    }
    Ok(blobs.delete(&[key.to_owned()]).await?)
}

async fn large(blobs: &dyn Blobs, key: &str, length: Option<u64>) -> Result<(), Broken> {
    blobs.put(key, length, written(LARGE_BYTES)).await?;
    let Some(Blob { mut pieces, .. }) = blobs.get(key, 0..LARGE_BYTES).await? else {
        return Err(Broken("it is not there".to_owned()));
    };
    let mut read = 0;
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        let until = read + piece.len() as u64;
        same(piece == bytes_of(read..until), true)?;
        same(piece.len() <= 1 << 20, true)?;
        read = until;
    }
    same(read, LARGE_BYTES)?;
    Ok(blobs.delete(&[key.to_owned()]).await?)
}

async fn empty(blobs: &dyn Blobs, key: &str) -> Result<(), Broken> {
    for length in [None, Some(0)] {
        blobs.put(key, length, written(0)).await?;
        blobs.delete(&[key.to_owned()]).await?;
    }
    Ok(())
}

async fn cut_short(blobs: &dyn Blobs, key: &str) -> Result<(), Broken> {
    for (length, before) in [(None, 5), (Some(10), 5), (None, LARGE_BYTES), (Some(LARGE_BYTES * 2), LARGE_BYTES)] {
        let cut = written(before).chain(stream::iter([Err(Fault::new("cut short"))]));
        refused(blobs.put(key, length, Box::pin(cut)).await, "half a file")?;
        same(got(blobs, key, 0..1).await?, None)?;
    }
    blobs.put(key, Some(5), written(5)).await?;
    Ok(blobs.delete(&[key.to_owned()]).await?)
}

async fn other_length(blobs: &dyn Blobs, key: &str) -> Result<(), Broken> {
    for (promised, length) in [(0, 1), (6, 5), (5, 6), (LARGE_BYTES, LARGE_BYTES - 1), (1, LARGE_BYTES)] {
        refused(blobs.put(key, Some(promised), written(length)).await, "another length")?;
        same(got(blobs, key, 0..1).await?, None)?;
    }
    Ok(())
}

async fn dropped(blobs: &dyn Blobs, key: &str) -> Result<(), Broken> {
    for length in [None, Some(LARGE_BYTES)] {
        {
            let is_half_way = Rc::new(Cell::new(false));
            let told = is_half_way.clone();
            let nothing_more = stream::poll_fn(move |cx| {
                told.set(true);
                cx.waker().wake_by_ref();
                Poll::Pending
            });
            let begun = written(LARGE_BYTES / 2).chain(nothing_more);
            let mut put = blobs.put(key, length, Box::pin(begun));
            let dropped = |cx: &mut Context<'_>| {
                if is_half_way.get() { Poll::Ready(Ok(())) } else { put.as_mut().poll(cx) }
            };
            poll_fn(dropped).await?;
        }
        same(got(blobs, key, 0..1).await?, None)?;
    }
    blobs.put(key, None, written(5)).await?;
    same(got(blobs, key, 0..5).await?, Some(bytes_of(0..5).to_vec()))?;
    Ok(blobs.delete(&[key.to_owned()]).await?)
}

async fn deleted(blobs: &dyn Blobs, key: &str) -> Result<(), Broken> {
    let keys = ["1", "2", "3"].map(|end| format!("{key}{end}"));
    for key in &keys {
        blobs.put(key, None, written(3)).await?;
    }
    let [first, second, third] = &keys;
    for _ in 0..2 {
        blobs.delete(&[first.clone(), third.clone()]).await?;
        same(got(blobs, first, 0..1).await?, None)?;
        same(got(blobs, third, 0..1).await?, None)?;
        same(got(blobs, second, 0..3).await?.is_some(), true)?;
    }
    blobs.delete(&[]).await?;
    Ok(blobs.delete(&keys).await?)
}

async fn at_once(blobs: &dyn Blobs, key: &str) -> Result<(), Broken> {
    let keys: Vec<String> = (0..8).map(|number| format!("{key}{number}")).collect();
    let lengths = (0_u64..8).map(|number| number * 40_000 + 1);
    let puts = keys.iter().zip(lengths.clone()).map(|(key, length)| blobs.put(key, None, written(length)));
    join_all(puts).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    for (key, length) in keys.iter().zip(lengths) {
        same(got(blobs, key, 0..length).await?.map(Bytes::from), Some(bytes_of(0..length)))?;
    }
    Ok(blobs.delete(&keys).await?)
}

async fn half_read(blobs: &dyn Blobs, key: &str) -> Result<(), Broken> {
    blobs.put(key, None, written(LARGE_BYTES)).await?;
    for _ in 0..4 {
        let blob = blobs.get(key, 0..LARGE_BYTES).await?;
        let Some(Blob { mut pieces, .. }) = blob else { return Err(Broken("it is not there".to_owned())) };
        same(pieces.next().await.transpose()?.is_some(), true)?;
        drop(blobs.get(key, 0..LARGE_BYTES).await?);
    }
    Ok(blobs.delete(&[key.to_owned()]).await?)
}
