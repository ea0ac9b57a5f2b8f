//! How operations grow with what there is: members of a room, events of a room, rooms of an account, in steps of ten.
//!
//! One room, or account, grows; at every size the same operations are timed one after the other, and their rows
//! counted. What should not grow is held to a ratio between the largest size and the smallest, both of this very run: a
//! slow machine is slow at both.

mod encrypted;

use std::time::Duration;

use futures_util::{
    StreamExt as _, TryStreamExt as _,
    future::{try_join, try_join_all},
    stream,
};
use tokio::time::{Instant, sleep};

use crate::{
    Result,
    client::{Client, Origin},
    costs::{Meter, NUDGES_REST},
    process,
    report::{Budget, Counters, Growth, Line, Report},
    samples::Samples,
    user::{Registrar, User},
};

/// What must not grow may be so many times slower, or read so many times more rows, at the largest size.
const FLAT_MAX: f64 = 3.0;
/// What grows with its answer may take so many times longer for each part of it, at the largest size and the one
/// before.
const LINEAR_MAX: f64 = 2.0;
/// Of all samples, the percentile that is compared: whatever else the machine does makes an operation slower, never
/// faster.
const COMPARED_PERCENT: usize = 10;
/// Times below this, in milliseconds, are compared as if they were this: they differ by chance.
const COMPARED_MS_MIN: f64 = 1.0;
/// Rows below this number are compared as if they were so many.
const ROWS_MIN: f64 = 20.0;
const ROWS_PER_MESSAGE_MAX: f64 = 4.0;
const ROWS_PER_WAITING_MAX: f64 = 1.0;
/// Memory of one isolate of Workers.
pub(crate) const ISOLATE_MB_MAX: f64 = 128.0;

/// Operations of a kind whose rows are counted; around each of them the server comes to rest.
const COUNTED: usize = 3;
/// A message's nudge has arrived after this long, on a server that does nothing else.
const NUDGED_WITHIN: Duration = Duration::from_millis(10);
/// Everything that a new size set off has ended when the counters rest for this long.
const SIZE_RESTS: Duration = Duration::from_millis(500);
/// Between asking and being told, so that a client really waits.
const PARKS: Duration = Duration::from_millis(30);
/// Who wait for one message.
const WAITING: usize = 10;
/// Who fill a room with events.
const SENDERS: usize = 32;
/// Members of a crowd that come at the same time.
const CROWD_AT_ONCE: usize = 64;

const ROOMS: &str = "rooms of an account";
const SYNC: &str = "sync after a message";

/// How large everything gets, and how often each operation is timed.
pub(crate) struct Sizes {
    pub members: usize,
    pub events: usize,
    pub rooms: usize,
    pub samples: usize,
    /// What a sync after one message may take, in the account with the most rooms: the median.
    pub sync_ms_max: Option<f64>,
}

/// What an operation's growth is.
#[derive(Clone, Copy)]
enum Grows {
    /// It costs the same at every size.
    Not,
    /// Its answer grows with the size, and it with its answer.
    WithAnswer,
    /// It is shown, and not judged.
    Somehow,
}

/// One operation at one size.
#[derive(Default)]
struct Point {
    took: Vec<Duration>,
    /// The least of what was counted: what happens besides only adds to it.
    rows: Option<(f64, f64)>,
}

/// One operation at all sizes.
struct Curve {
    what: &'static str,
    grows: Grows,
    points: Vec<Point>,
}

/// The operations of one kind of growth, at the sizes measured so far.
struct Curves {
    of: &'static str,
    sizes: Vec<usize>,
    curves: Vec<Curve>,
    /// The peak of the server's memory, and the memory of its code where that is limited, in MB.
    peak_mb: Vec<f64>,
    wasm_mb: Vec<f64>,
}

/// Grows everything, one kind after the other. With the secret of the server's test hooks, its actors are also made to
/// forget what they have in memory.
pub(crate) async fn growth(
    origin: Origin,
    registrar: &Registrar,
    secret: Option<String>,
    sizes: &Sizes,
    pids: &[u32],
    report: &mut Report,
) -> Result<()> {
    let mut meter = Meter::new(origin);
    let meter = if meter.is_there().await? { Some(meter) } else { None };
    let hooks = secret.map(|secret| Client::with_token(origin, secret));
    let mut bench = Bench { registrar, meter, hooks, pids, samples: sizes.samples };
    bench.members(sizes.members).await?.report(report);
    bench.events(sizes.events).await?.report(report);
    bench.encrypted(report).await?;
    let rooms = bench.rooms(sizes.rooms).await?;
    rooms.report(report);
    if let (Some(allowed_ms), Some(measured_ms)) = (sizes.sync_ms_max, rooms.largest_ms(SYNC)) {
        report.budget(Budget::at_most("sync after a message, most rooms: p50 ms", measured_ms, allowed_ms));
    }
    Ok(())
}

/// From a thousandth of the largest size to the largest, in steps of ten.
fn steps(largest: usize) -> impl Iterator<Item = usize> {
    [1000, 100, 10, 1].into_iter().map(move |part| largest / part).filter(|size| *size > 0)
}

/// Two who are in one room.
struct Two {
    writer: User,
    reader: User,
    room: String,
    said: usize,
}

impl Two {
    async fn says(&mut self) -> Result<()> {
        self.said += 1;
        self.writer.sends(&self.room, &format!("growth {}.", self.said)).await
    }

    async fn hears(&mut self) -> Result<()> {
        self.reader.receives(&format!("growth {}.", self.said)).await
    }
}

/// Makes actors forget what they have in memory.
async fn evict(hooks: &mut Client, kind: &str, ids: &[String]) -> Result<()> {
    for id in ids {
        let order = serde_json::json!({ "kind": kind, "id": id });
        hooks.post("/_myelin/test/evict", &order).await?.ok()?;
    }
    Ok(())
}

async fn nothing<T>(_: &mut T) -> Result<()> {
    Ok(())
}

/// The server under measurement.
struct Bench<'a> {
    registrar: &'a Registrar,
    meter: Option<Meter>,
    hooks: Option<Client>,
    pids: &'a [u32],
    samples: usize,
}

impl Bench<'_> {
    async fn members(&mut self, largest: usize) -> Result<Curves> {
        let mut curves = Curves::new("members of a room");
        let mut two = self.two("members").await?;
        let mut waiting = self.registrar.users("members-waiting", WAITING).await?;
        for user in &mut waiting {
            user.joins(&two.room).await?;
        }
        let mut members = WAITING + 2;
        for size in steps(largest) {
            self.crowd(&two.room, size, size.saturating_sub(members)).await?;
            members = members.max(size) + self.samples;
            self.begin(&mut two, &mut curves, size).await?;
            self.usual(&mut two, &mut curves).await?;
            let path = format!("/_matrix/client/v3/rooms/{}/members", two.room);
            let point = self.times(&mut two, nothing, async |two: &mut Two| two.reader.gets(&path).await).await?;
            curves.add("/members", Grows::WithAnswer, point);
            let point = self.waking(&mut two, &mut waiting).await?;
            curves.add("message to ten waiting, with their syncs", Grows::Not, point);
            let point = self.joins(&two.room, size).await?;
            curves.add("join", Grows::Not, point);
            self.asleep(&mut two, &mut curves).await?;
            self.memory(&mut curves).await?;
        }
        Ok(curves)
    }

    async fn events(&mut self, largest: usize) -> Result<Curves> {
        let mut curves = Curves::new("events of a room");
        let mut two = self.two("events").await?;
        let mut senders = self.registrar.users("events-sender", SENDERS).await?;
        for user in &mut senders {
            user.joins(&two.room).await?;
        }
        let mut events = 0;
        for size in steps(largest) {
            let (room, each) = (&two.room, size.saturating_sub(events).div_ceil(SENDERS));
            try_join_all(senders.iter_mut().map(|user| async move {
                for _event in 0..each {
                    user.sends(room, "one of very many messages, as long as most of them are").await?;
                }
                Result::Ok(())
            }))
            .await?;
            events += each * SENDERS;
            self.begin(&mut two, &mut curves, size).await?;
            self.usual(&mut two, &mut curves).await?;
            let path = format!("/_matrix/client/v3/rooms/{}/messages?dir=f&limit=50", two.room);
            let point = self.times(&mut two, nothing, async |two: &mut Two| two.reader.gets(&path).await).await?;
            curves.add("/messages, the oldest", Grows::Not, point);
            self.asleep(&mut two, &mut curves).await?;
            self.memory(&mut curves).await?;
        }
        Ok(curves)
    }

    async fn rooms(&mut self, largest: usize) -> Result<Curves> {
        let mut curves = Curves::new(ROOMS);
        let mut two = self.two("rooms").await?;
        let mut rooms = vec![two.room.clone()];
        for size in steps(largest) {
            while rooms.len() < size {
                rooms.push(two.reader.creates_room("private_chat").await?);
            }
            self.begin(&mut two, &mut curves, size).await?;
            self.usual(&mut two, &mut curves).await?;
            let quiet = async |two: &mut Two| two.reader.syncs(Duration::ZERO).await.map(drop);
            let point = self.times(&mut two, nothing, quiet).await?;
            curves.add("sync, nothing new", Grows::Not, point);
            let list = async |two: &mut Two| two.reader.gets("/_matrix/client/v3/joined_rooms").await;
            let point = self.times(&mut two, nothing, list).await?;
            curves.add("/joined_rooms", Grows::WithAnswer, point);
            if let Some(hooks) = self.hooks.take() {
                let mut asleep = (&mut two, hooks);
                let put_to_sleep = async |(_, hooks): &mut (_, Client)| evict(hooks, "room", &rooms).await;
                let wake = async |(two, _): &mut (&mut Two, Client)| two.reader.syncs_lazily().await;
                let point = self.times(&mut asleep, put_to_sleep, wake).await?;
                curves.add("initial sync, lazy, all rooms asleep", Grows::WithAnswer, point);
                self.hooks = Some(asleep.1);
            }
            self.asleep(&mut two, &mut curves).await?;
            self.memory(&mut curves).await?;
        }
        Ok(curves)
    }

    async fn two(&self, what: &str) -> Result<Two> {
        let mut writer = self.registrar.user(format!("{what}-writer")).await?;
        let mut reader = self.registrar.user(format!("{what}-reader")).await?;
        let room = writer.creates_room("public_chat").await?;
        reader.joins(&room).await?;
        Ok(Two { writer, reader, room, said: 0 })
    }

    /// So many more members, who never look.
    async fn crowd(&self, room: &str, size: usize, count: usize) -> Result<()> {
        let joined = (0..count).map(|number| async move {
            let mut user = self.registrar.user(format!("member{size}-{number}")).await?;
            user.joins(room).await
        });
        stream::iter(joined).buffer_unordered(CROWD_AT_ONCE).try_collect().await
    }

    /// A new size: everybody was told of a message, the reader has read, the server rests.
    async fn begin(&mut self, two: &mut Two, curves: &mut Curves, size: usize) -> Result<()> {
        eprintln!("    {}: {size}", curves.of);
        curves.sizes.push(size);
        two.says().await?;
        self.rest(SIZE_RESTS).await?;
        two.reader.syncs_lazily().await?;
        self.rest(SIZE_RESTS).await?;
        Ok(())
    }

    /// The operations that all kinds of growth have in common.
    async fn usual(&mut self, two: &mut Two, curves: &mut Curves) -> Result<()> {
        let point = self.times(two, nothing, Two::says).await?;
        curves.add("send", Grows::Not, point);
        two.hears().await?;
        let point = self.times(two, Two::says, Two::hears).await?;
        curves.add(SYNC, Grows::Not, point);
        let path = format!("/_matrix/client/v3/rooms/{}/messages?dir=b&limit=50", two.room);
        let point = self.times(two, nothing, async |two: &mut Two| two.reader.gets(&path).await).await?;
        curves.add("/messages, the newest", Grows::Not, point);
        // Of many rooms some are awake, some are not: those that all sleep are compared.
        let grows = if curves.of == ROOMS { Grows::Somehow } else { Grows::Not };
        let point = self.times(two, nothing, async |two: &mut Two| two.reader.syncs_lazily().await).await?;
        curves.add("initial sync, lazy", grows, point);
        Ok(())
    }

    /// One message, until everyone who waits has it.
    async fn waking(&mut self, two: &mut Two, waiting: &mut [User]) -> Result<Point> {
        for user in &mut *waiting {
            user.syncs_lazily().await?;
        }
        let mut everyone = (two, waiting);
        let mut point = self
            .times(&mut everyone, nothing, async |(two, waiting): &mut (&mut Two, &mut [User])| {
                let text = format!("growth {}.", two.said + 1);
                let sending = async {
                    sleep(PARKS).await;
                    two.says().await
                };
                try_join(sending, try_join_all(waiting.iter_mut().map(|user| user.receives(&text)))).await?;
                Ok(())
            })
            .await?;
        point.took.iter_mut().for_each(|took| *took = took.saturating_sub(PARKS));
        Ok(point)
    }

    /// Joins of people who were there before.
    async fn joins(&mut self, room: &str, size: usize) -> Result<Point> {
        let mut point = Point::default();
        for user in &mut self.registrar.users(&format!("joins{size}-"), self.samples).await? {
            self.once(&mut point, user, async |user: &mut User| user.joins(room).await).await?;
        }
        Ok(point)
    }

    /// The first operation of an actor that has nothing in memory: of the room, or of the reader where rooms grow.
    async fn asleep(&mut self, two: &mut Two, curves: &mut Curves) -> Result<()> {
        let Some(mut hooks) = self.hooks.take() else { return Ok(()) };
        let is_user = curves.of == ROOMS;
        let (kind, id) = if is_user { ("user", &two.reader.id) } else { ("room", &two.room) };
        let sleeper = [id.clone()];
        let mut point = Point::default();
        for _sample in 0..self.samples {
            two.says().await?;
            two.hears().await?;
            if is_user {
                two.says().await?;
                sleep(NUDGED_WITHIN).await;
            }
            evict(&mut hooks, kind, &sleeper).await?;
            if is_user {
                self.once(&mut point, two, Two::hears).await?;
            } else {
                self.once(&mut point, two, Two::says).await?;
                two.hears().await?;
            }
        }
        let what = if is_user { "sync after a message, the user asleep" } else { "send, the room asleep" };
        curves.add(what, Grows::Somehow, point);
        self.hooks = Some(hooks);
        Ok(())
    }

    /// The operation again and again, each time after its preparation, which is not timed.
    async fn times<T>(
        &mut self,
        on: &mut T,
        prepare: impl AsyncFn(&mut T) -> Result<()>,
        operation: impl AsyncFn(&mut T) -> Result<()>,
    ) -> Result<Point> {
        let mut point = Point::default();
        for _sample in 0..self.samples {
            prepare(on).await?;
            sleep(NUDGED_WITHIN).await;
            self.once(&mut point, on, &operation).await?;
        }
        Ok(point)
    }

    async fn once<T>(
        &mut self,
        point: &mut Point,
        on: &mut T,
        operation: impl AsyncFn(&mut T) -> Result<()>,
    ) -> Result<()> {
        let is_counted = point.took.len() < COUNTED;
        let before = if is_counted { self.rest(NUDGES_REST).await? } else { None };
        let began = Instant::now();
        operation(on).await?;
        point.took.push(began.elapsed());
        if let Some(before) = before
            && let Some(after) = self.rest(NUDGES_REST).await?
        {
            let (read, written) = (after - before).rows();
            let (least_read, least_written) = point.rows.unwrap_or((f64::INFINITY, f64::INFINITY));
            point.rows = Some((read.min(least_read), written.min(least_written)));
        }
        Ok(())
    }

    async fn rest(&mut self, rest: Duration) -> Result<Option<Counters>> {
        match &mut self.meter {
            Some(meter) => meter.at_rest(rest).await.map(Some),
            None => {
                sleep(rest).await;
                Ok(None)
            }
        }
    }

    async fn memory(&mut self, curves: &mut Curves) -> Result<()> {
        curves.peak_mb.extend(process::peak_mb(self.pids));
        if let Some(reading) = self.rest(Duration::ZERO).await? {
            curves.wasm_mb.extend(reading.wasm_mb());
        }
        Ok(())
    }
}

impl Point {
    fn median_ms(&self) -> f64 {
        self.samples().percentile_ms(50)
    }

    fn compared_ms(&self) -> f64 {
        self.samples().percentile_ms(COMPARED_PERCENT)
    }

    fn samples(&self) -> Samples {
        self.took.iter().copied().collect()
    }
}

impl Curves {
    fn new(of: &'static str) -> Self {
        Self { of, sizes: Vec::new(), curves: Vec::new(), peak_mb: Vec::new(), wasm_mb: Vec::new() }
    }

    fn add(&mut self, what: &'static str, grows: Grows, point: Point) {
        match self.curves.iter_mut().find(|curve| curve.what == what) {
            Some(curve) => curve.points.push(point),
            None => self.curves.push(Curve { what, grows, points: vec![point] }),
        }
    }

    fn largest_ms(&self, what: &str) -> Option<f64> {
        self.curves.iter().find(|curve| curve.what == what)?.points.last().map(Point::median_ms)
    }

    fn report(&self, report: &mut Report) {
        let mut lines = Vec::new();
        for curve in &self.curves {
            let mut line = |unit: &str, value: &dyn Fn(&Point) -> f64| {
                lines.push(Line::new(curve.what, unit, curve.points.iter().map(value).collect()));
            };
            line("p50 ms", &Point::median_ms);
            line("p99 ms", &|point| point.samples().percentile_ms(99));
            if curve.points.iter().all(|point| point.rows.is_some()) {
                line("rows read", &|point| point.rows.map_or(f64::NAN, |(read, _)| read));
                line("rows written", &|point| point.rows.map_or(f64::NAN, |(_, written)| written));
            }
            for budget in self.budgets(curve) {
                report.budget(budget);
            }
        }
        for (what, values) in [("memory, at most", &self.peak_mb), ("memory of the code", &self.wasm_mb)] {
            if !values.is_empty() {
                lines.push(Line::new(what, "MB", values.clone()));
            }
        }
        if let Some(wasm_mb) = self.wasm_mb.last() {
            report.budget(Budget::at_most(&format!("{}: MB of the isolate", self.of), *wasm_mb, ISOLATE_MB_MAX));
        }
        report.growth(Growth { of: self.of.to_owned(), sizes: self.sizes.clone(), lines });
    }

    fn budgets(&self, curve: &Curve) -> Vec<Budget> {
        let (Some(first), Some(last)) = (curve.points.first(), curve.points.last()) else { return Vec::new() };
        let (Some(least), Some(most)) = (self.sizes.first(), self.sizes.last()) else { return Vec::new() };
        let what = |of: &str| format!("{} of {}, {most} {} to {least}", of, curve.what, self.of);
        let ratio = |one: f64, other: f64, least: f64| one.max(least) / other.max(least);
        let times = ratio(last.compared_ms(), first.compared_ms(), COMPARED_MS_MIN);
        let mut budgets = Vec::new();
        match curve.grows {
            Grows::Not => {
                budgets.push(Budget::at_most(&what(&format!("p{COMPARED_PERCENT}")), times, FLAT_MAX));
                if let (Some((first, _)), Some((last, _))) = (first.rows, last.rows) {
                    budgets.push(Budget::at_most(&what("rows read"), ratio(last, first, ROWS_MIN), FLAT_MAX));
                }
                let allowed = match curve.what {
                    "send" => Some(ROWS_PER_MESSAGE_MAX),
                    SYNC => Some(ROWS_PER_WAITING_MAX),
                    _ if curve.what.starts_with("message to ten") => {
                        Some(ROWS_PER_MESSAGE_MAX + ROWS_PER_WAITING_MAX * WAITING as f64)
                    }
                    _ => None,
                };
                if let (Some(allowed), Some((_, written))) = (allowed, last.rows) {
                    let what = format!("{}, {most} {}: rows written", curve.what, self.of);
                    budgets.push(Budget::at_most(&what, written, allowed));
                }
            }
            Grows::WithAnswer => {
                if let ([.., before, _], [.., fewer, _]) = (curve.points.as_slice(), self.sizes.as_slice()) {
                    let times = ratio(last.compared_ms(), before.compared_ms(), COMPARED_MS_MIN);
                    let what =
                        format!("p{COMPARED_PERCENT} for each part of {}, {most} {} to {fewer}", curve.what, self.of);
                    budgets.push(Budget::at_most(&what, times * *fewer as f64 / *most as f64, LINEAR_MAX));
                }
            }
            Grows::Somehow => {}
        }
        budgets
    }
}
