use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::{Bytes, BytesMut};
use domain::Refusal;
use futures_util::{Stream, StreamExt, stream};
use platform::{Blob, Fault, Pieces};

use crate::{Context, Failure};

/// The largest request body that is taken whole, in bytes. Beyond it only what goes into a store as it comes.
pub const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;

/// As that, of who has not shown who they are, and needs not.
pub(crate) const ANONYMOUS_BODY_BYTES_MAX: usize = 256 * 1024;
/// A body up to this is taken from anybody at any time, in bytes.
const SMALL_BODY_BYTES: usize = 64 * 1024;
/// What all bodies beyond that may hold at a time, in this process or isolate, in bytes.
const HELD_BYTES_MAX: usize = if cfg!(target_arch = "wasm32") { 32 * 1024 * 1024 } else { 256 * 1024 * 1024 };
/// The part of it for those of whom nobody knows, or knows yet, who sends them.
const STRANGERS_BYTES_MAX: usize = HELD_BYTES_MAX / 4;
const KNOWN_BYTES_MAX: usize = HELD_BYTES_MAX - STRANGERS_BYTES_MAX;
/// How long a body may take to arrive that is taken whole, in milliseconds, and one of a stranger.
const ARRIVAL_MS_MAX: u64 = 180_000;
const STRANGERS_ARRIVAL_MS_MAX: u64 = 30_000;
/// How long one of a stranger waits for others to make room, in milliseconds, and how often it looks: other servers
/// send what they have at any time, and do not come back soon.
const ROOM_MS_MAX: u64 = 15_000;
const ROOM_LOOK_MS: u64 = 100;
/// How long a body counts as held, in milliseconds, and how long as a stranger's. Nobody says on Workers that a request
/// was given up.
const HELD_MS_MAX: u64 = 900_000;
const STRANGERS_HELD_MS_MAX: u64 = 120_000;

/// What an answer says: all at once, or piece by piece as it comes to be, for what would be too much in one go.
pub enum Body {
    Whole(Bytes),
    /// Made while it is sent, as fast as the client takes it. The status went out before the first piece: a fault can
    /// only cut the answer short, so that the client sees a broken connection and not half an answer.
    Pieces(Pieces),
    /// As it lies in the store: its host may know a shorter way to send it.
    Stored(Blob),
}

impl Body {
    pub fn pieces(pieces: impl Stream<Item = Result<Bytes, Fault>> + 'static) -> Self {
        let pieces: Pieces = Box::pin(pieces);
        // Nothing goes out after a fault, however the pieces were put together.
        Body::Pieces(Box::pin(stream::unfold(Some(pieces), async |pieces| {
            let mut pieces = pieces?;
            let piece = pieces.next().await?;
            let rest = piece.is_ok().then_some(pieces);
            Some((piece, rest))
        })))
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Body::Whole(bytes)
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Body::Whole(bytes.into())
    }
}

/// The body of a request, as it arrives.
pub struct Arriving {
    /// How long the client says it is.
    pub length: Option<u64>,
    pub pieces: Pin<Box<dyn Stream<Item = Result<Bytes, Unread>>>>,
}

/// Why the rest of a request does not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// The client sent nothing for too long.
    TooSlow,
    /// The client went away, or does not keep to the protocol.
    Broken,
}

impl From<Unread> for Failure {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::TooSlow => Refusal::TooSlow.into(),
            // Most likely nobody is left to read this.
            Unread::Broken => Refusal::Unknown("The request did not arrive whole".to_owned()).into(),
        }
    }
}

impl Arriving {
    pub fn new(length: Option<u64>, pieces: impl Stream<Item = Result<Bytes, Unread>> + 'static) -> Self {
        Self { length, pieces: Box::pin(pieces) }
    }

    /// Whether it may be more than is taken from anybody: nothing is known of one whose length is not said.
    pub(crate) fn may_be_large(&self) -> bool {
        self.length.is_none_or(|length| length > SMALL_BODY_BYTES as u64)
    }

    /// Takes it in whole, up to `most` bytes, which count as held until `held` is dropped.
    ///
    /// # Errors
    /// `M_TOO_LARGE` for more: said beforehand, then not a byte of it is read. `M_LIMIT_EXCEEDED` when all bodies
    /// together hold too much.
    pub(crate) async fn whole(self, cx: &Context, most: usize, held: &mut Held) -> Result<Bytes, Failure> {
        let Self { length, mut pieces } = self;
        if length.is_some_and(|length| length > most as u64) {
            return Err(too_large(most));
        }
        let mut whole = BytesMut::new();
        while let Some(piece) = pieces.next().await {
            let piece = piece?;
            let bytes = whole.len().saturating_add(piece.len());
            if bytes > most {
                return Err(too_large(most));
            }
            held.finds_room_for(cx, bytes).await?;
            if whole.is_empty() && length == Some(piece.len() as u64) {
                held.has_arrived();
                return Ok(piece);
            }
            whole.extend_from_slice(&piece);
        }
        held.has_arrived();
        Ok(whole.freeze())
    }
}

/// What bodies hold beyond what is small.
struct Pool {
    bytes_max: usize,
    /// What is for all but the first that is on its way. That one finds room so, where each of them would wait for the
    /// others.
    not_first_bytes_max: usize,
    ms_max: u64,
    held: Mutex<Holdings>,
}

struct Holdings {
    /// Of all.
    bytes: usize,
    /// By number: who came first has the lowest.
    each: BTreeMap<u64, Holding>,
    last: u64,
}

struct Holding {
    bytes: usize,
    /// Until when that counts, in milliseconds since the Unix epoch.
    until_ms: u64,
    is_arriving: bool,
}

static OF_THE_KNOWN: Pool = Pool::of(KNOWN_BYTES_MAX, KNOWN_BYTES_MAX, HELD_MS_MAX);
static OF_STRANGERS: Pool = Pool::of(STRANGERS_BYTES_MAX, STRANGERS_BYTES_MAX / 2, STRANGERS_HELD_MS_MAX);

impl Pool {
    const fn of(bytes_max: usize, not_first_bytes_max: usize, ms_max: u64) -> Self {
        let held = Mutex::new(Holdings { bytes: 0, each: BTreeMap::new(), last: 0 });
        Self { bytes_max, not_first_bytes_max, ms_max, held }
    }

    fn held(&self) -> MutexGuard<'_, Holdings> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there was room for more of one: of a new one, if it has no number yet.
    fn takes(&self, number: &mut Option<u64>, more: usize, now_ms: u64) -> bool {
        let mut held = self.held();
        if held.bytes.saturating_add(more) > self.not_first_bytes_max {
            held.forgets(now_ms);
        }
        let first = held.each.iter().find(|(_, one)| one.is_arriving).map(|(number, _)| *number);
        let is_first = first.is_none() || first == *number;
        let bytes_max = if is_first { self.bytes_max } else { self.not_first_bytes_max };
        if held.bytes.saturating_add(more) > bytes_max {
            return false;
        }
        let number = *number.get_or_insert_with(|| {
            held.last = held.last.wrapping_add(1);
            held.last
        });
        let until_ms = now_ms.saturating_add(self.ms_max);
        let one = held.each.entry(number).or_insert(Holding { bytes: 0, until_ms, is_arriving: true });
        one.bytes = one.bytes.saturating_add(more);
        held.bytes = held.bytes.saturating_add(more);
        true
    }

    fn has_arrived(&self, number: u64) {
        if let Some(one) = self.held().each.get_mut(&number) {
            one.is_arriving = false;
        }
    }

    fn gives_back(&self, number: u64) {
        let mut held = self.held();
        if let Some(one) = held.each.remove(&number) {
            held.bytes = held.bytes.saturating_sub(one.bytes);
        }
    }
}

impl Holdings {
    /// What was held for too long counts no more.
    fn forgets(&mut self, now_ms: u64) {
        self.each.retain(|_, one| one.until_ms > now_ms);
        self.bytes = self.each.values().fold(0, |all, one| all.saturating_add(one.bytes));
    }
}

/// What one body holds of that.
pub(crate) struct Held {
    pool: &'static Pool,
    number: Option<u64>,
    bytes: usize,
}

impl Held {
    /// What a body holds whose sender is not known, or not yet.
    pub(crate) fn by_stranger() -> Self {
        Self { pool: &OF_STRANGERS, number: None, bytes: 0 }
    }

    /// Its sender is known now.
    ///
    /// # Errors
    /// `M_LIMIT_EXCEEDED` when the bodies of those who are hold too much.
    pub(crate) fn is_of_somebody(&mut self, now_ms: u64) -> Result<(), Refusal> {
        self.moves_to(&OF_THE_KNOWN, now_ms)
    }

    fn moves_to(&mut self, pool: &'static Pool, now_ms: u64) -> Result<(), Refusal> {
        let mut number = None;
        if self.bytes > 0 && !pool.takes(&mut number, self.bytes, now_ms) {
            return Err(Refusal::LimitExceeded { retry_after_ms: 1_000 });
        }
        *self = Self { pool, number, bytes: self.bytes };
        Ok(())
    }

    fn has_arrived(&self) {
        if let Some(number) = self.number {
            self.pool.has_arrived(number);
        }
    }

    fn is_by_stranger(&self) -> bool {
        std::ptr::eq(self.pool, &raw const OF_STRANGERS)
    }

    /// How long the body may take to arrive, in milliseconds.
    pub(crate) fn arrival_ms_max(&self) -> u64 {
        if self.is_by_stranger() { STRANGERS_ARRIVAL_MS_MAX } else { ARRIVAL_MS_MAX }
    }

    async fn finds_room_for(&mut self, cx: &Context, bytes: usize) -> Result<(), Refusal> {
        let until_ms = cx.now_ms().saturating_add(if self.is_by_stranger() { ROOM_MS_MAX } else { 0 });
        while !self.grows_to(bytes, cx.now_ms()) {
            if cx.now_ms() >= until_ms {
                return Err(Refusal::LimitExceeded { retry_after_ms: 1_000 });
            }
            cx.pause(ROOM_LOOK_MS).await;
        }
        Ok(())
    }

    /// Whether there was room.
    fn grows_to(&mut self, bytes: usize, now_ms: u64) -> bool {
        let more = bytes.saturating_sub(SMALL_BODY_BYTES).saturating_sub(self.bytes);
        if more > 0 && !self.pool.takes(&mut self.number, more, now_ms) {
            return false;
        }
        self.bytes = self.bytes.saturating_add(more);
        true
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.pool.gives_back(number);
        }
    }
}

/// What strangers' bodies hold, and those of others.
#[cfg(test)]
pub(crate) fn held_bytes() -> (usize, usize) {
    (OF_STRANGERS.held().bytes, OF_THE_KNOWN.held().bytes)
}

impl From<Bytes> for Arriving {
    fn from(bytes: Bytes) -> Self {
        Self::new(Some(bytes.len() as u64), futures_util::stream::iter([Ok(bytes)]))
    }
}

fn too_large(most: usize) -> Failure {
    Refusal::TooLarge(format!("This request can have at most {most} bytes")).into()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use domain::Refusal;
    use futures_util::stream;

    use super::{
        Arriving, BODY_BYTES_MAX, HELD_MS_MAX, Held, OF_STRANGERS, OF_THE_KNOWN, Pool, SMALL_BODY_BYTES, Unread,
    };
    use crate::testing::{TestServer, block_on};

    fn pool(bytes_max: usize) -> &'static Pool {
        Box::leak(Box::new(Pool::of(bytes_max, bytes_max, HELD_MS_MAX)))
    }

    fn held(pool: &'static Pool) -> Held {
        Held { pool, number: None, bytes: 0 }
    }

    fn read(held: &mut Held, length: Option<u64>, pieces: Vec<Result<Bytes, Unread>>) -> Result<usize, String> {
        let server = TestServer::new(&[]);
        let body = Arriving::new(length, stream::iter(pieces));
        let read = block_on(body.whole(&server.context(), BODY_BYTES_MAX, held));
        read.map(|whole| whole.len()).map_err(|failure| format!("{failure:?}"))
    }

    fn piece(bytes: usize) -> Result<Bytes, Unread> {
        Ok(Bytes::from(vec![0; bytes]))
    }

    #[test]
    fn what_is_taken_whole_is_bounded() {
        let pool = pool(BODY_BYTES_MAX);
        let read = |length, pieces| read(&mut held(pool), length, pieces);
        assert_eq!(read(None, vec![]), Ok(0));
        assert_eq!(read(Some(2), vec![piece(1), piece(1)]), Ok(2));
        assert_eq!(read(Some(2), vec![piece(2)]), Ok(2));
        assert_eq!(read(None, vec![piece(BODY_BYTES_MAX - 1), piece(1)]), Ok(BODY_BYTES_MAX));
        let too_large = |outcome: Result<usize, String>| assert!(outcome.unwrap_err().contains("TooLarge"));
        too_large(read(None, vec![piece(BODY_BYTES_MAX), piece(1)]));
        too_large(read(Some(BODY_BYTES_MAX as u64 + 1), vec![]));
        let cut = |unread| read(None, vec![piece(1), Err(unread)]).unwrap_err();
        assert!(cut(Unread::TooSlow).contains("TooSlow"));
        assert!(cut(Unread::Broken).contains("Unknown"));
        // Nor do they hold too much together; small ones are always taken.
        let mut other = held(pool);
        assert!(other.grows_to(BODY_BYTES_MAX - 1_000 + SMALL_BODY_BYTES, u64::MAX));
        let refused = read(None, vec![piece(SMALL_BODY_BYTES), piece(1_001)]).unwrap_err();
        assert!(refused.contains("LimitExceeded"), "{refused}");
        assert_eq!(read(None, vec![piece(SMALL_BODY_BYTES)]), Ok(SMALL_BODY_BYTES));
        drop(other);
        assert_eq!(read(None, vec![piece(BODY_BYTES_MAX)]), Ok(BODY_BYTES_MAX));
        let left = pool.held();
        assert_eq!((left.bytes, left.each.len()), (0, 0), "nothing is held any more");
    }

    #[test]
    fn strangers_have_a_quarter_until_they_are_known() {
        assert_eq!(OF_THE_KNOWN.bytes_max, OF_STRANGERS.bytes_max * 3);
        assert!(OF_STRANGERS.bytes_max >= BODY_BYTES_MAX);
        let (strangers, known) = (pool(1_000), pool(1_500));
        let (mut one, mut other) = (held(strangers), held(strangers));
        assert!(one.grows_to(SMALL_BODY_BYTES + 900, 0));
        assert!(!other.grows_to(SMALL_BODY_BYTES + 900, 0));
        one.moves_to(known, 0).unwrap();
        assert_eq!((strangers.held().bytes, known.held().bytes), (0, 900));
        assert!(other.grows_to(SMALL_BODY_BYTES + 900, 0));
        assert!(matches!(other.moves_to(known, 0), Err(Refusal::LimitExceeded { .. })));
        drop((one, other));
        assert_eq!((strangers.held().bytes, known.held().bytes), (0, 0));
    }

    /// Or those that are half there would wait for each other.
    #[test]
    fn the_first_on_its_way_finds_room() {
        let pool: &'static Pool = Box::leak(Box::new(Pool::of(1_000, 500, HELD_MS_MAX)));
        let (mut first, mut second, mut third) = (held(pool), held(pool), held(pool));
        let grows = |one: &mut Held, bytes: usize| one.grows_to(SMALL_BODY_BYTES + bytes, 0);
        assert!(grows(&mut first, 200) && grows(&mut second, 250));
        assert!(!grows(&mut second, 350) && !grows(&mut third, 100));
        assert!(grows(&mut first, 750) && !grows(&mut first, 751), "it has what others have not");
        first.has_arrived();
        assert!(!grows(&mut second, 350) && !grows(&mut third, 100), "it is there still");
        drop(first);
        assert!(grows(&mut third, 250) && !grows(&mut third, 300), "it is not the first");
        assert!(grows(&mut second, 750));
    }

    /// A request that was given up may never say so.
    #[test]
    fn nothing_is_held_for_ever() {
        let pool = pool(1_000);
        let (mut given_up, mut late) = (held(pool), held(pool));
        assert!(given_up.grows_to(SMALL_BODY_BYTES + 700, 5) && late.grows_to(SMALL_BODY_BYTES + 200, 6));
        let after = |ms: u64| held(pool).grows_to(SMALL_BODY_BYTES + 800, ms);
        assert!(!after(4 + HELD_MS_MAX) && after(5 + HELD_MS_MAX));
        drop(given_up);
        assert_eq!(pool.held().bytes, 200, "it is not given back twice");
        drop(late);
        assert_eq!(pool.held().bytes, 0);
    }
}
