//! Rooms in which nobody of this server is: users of ours join them, knock on them and turn invitations to them down
//! with the help of a server that is in them.
//! Spec: Server-Server API, "Joining Rooms", "Knocking upon a room", "Leaving Rooms (Rejecting Invites)".

use std::collections::BTreeSet;

use actors::{
    room::{
        BeginJoin, ChangeMembership, CheckedEvent, CompleteJoin, GetIntake, GetResidence, GiveUpJoin, Intake, IsWhole,
        MemberProfile, ReceiveEvent, Received, Residence, Takes,
    },
    user::{self, GetAsked, MembershipChanged},
};
use domain::{
    Pdu, Refusal, RoomVersion,
    event::{self, Draft, Place},
};
use http::Method;
use platform::Arriving;
use ruma_common::{OwnedEventId, OwnedServerName, RoomId, ServerName, UserId};
use ruma_events::{TimelineEventType, room::member::MembershipState};
use serde::Deserialize;
use serde_json::{
    Map, Value,
    value::{RawValue, to_raw_value},
};

use super::{
    AskError, Bounds,
    arriving_join::{Answer, ArrivingJoin},
    pdus::{ReadPdu, path_in_room, raw},
    shown_room::{STRIPPED_EVENTS_MAX, is_whole, stripped},
};
use crate::{Context, Failure, metadata::register_room};

/// Servers asked for one room, one after the other.
const SERVERS_MAX: usize = 10;
/// The largest answer to a join, in bytes: the state of a room, which is taken in slices.
const JOIN_BYTES_MAX: usize = 512 * 1024 * 1024;
const JOIN_TIMEOUT_MS: u64 = 300_000;
/// How long a join waits for members that its answer left out, in milliseconds, and how often it looks.
const MEMBERS_WAIT_MS: u64 = 10_000;
const MEMBERS_LOOK_MS: u64 = 100;
/// How long who leaves waits for a join of the same room that is under way, in milliseconds.
const JOINING_WAIT_MS: u64 = 20_000;
/// In the content of a join: who of the room let the user in. Spec: "Restricted rooms".
const VOUCHER: &str = "join_authorised_via_users_server";

/// A user's membership of a room elsewhere.
pub(crate) struct Elsewhere<'a> {
    pub cx: &'a Context,
    pub room_id: &'a RoomId,
    pub user_id: &'a UserId,
    /// Servers that may be in the room, the likeliest first.
    pub servers: Vec<OwnedServerName>,
    /// The content of the membership, but for which it is.
    words: Map<String, Value>,
}

/// A membership that may be sent.
struct Prepared<'s> {
    /// Who prepared it.
    server: &'s OwnedServerName,
    pdu: Pdu,
    version: RoomVersion,
    /// Whether that server did not say which version the room has.
    is_guessed: bool,
    /// Those that were not asked yet.
    others: &'s [OwnedServerName],
}

/// What became of a join for which the room was taken to have a version.
enum JoinedIn {
    ThisVersion,
    /// It does not have that version, as far as is known.
    AnotherVersion(Refusal),
}

#[derive(Deserialize)]
struct Template {
    room_version: Option<String>,
    event: Box<RawValue>,
}

/// Whether the room is one of others, and which servers are known to be in it.
pub(crate) async fn residence(cx: &Context, room_id: &RoomId) -> Result<Residence, Failure> {
    match cx.room(room_id).call(&GetResidence {}).await {
        Err(Failure::Absent) => Ok(Residence::default()),
        residence => residence,
    }
}

/// Whether the room is here for this user. Of one that everybody has left, as far as is known here, others know more
/// who invited the user since, or took their knock.
pub(crate) async fn is_here_for(
    cx: &Context,
    residence: &Residence,
    room_id: &RoomId,
    user_id: &UserId,
) -> Result<bool, Failure> {
    if !residence.deserted {
        return Ok(residence.here);
    }
    let asked = cx.user(user_id).call(&GetAsked { room_id: room_id.to_owned() }).await?;
    Ok(asked.is_none_or(|asked| asked.event_id.is_none()))
}

/// The servers that may help with a room, each once: those that were named, that of whoever invited the user and those
/// of others who had a part in what the user was shown, those known to be in it, and the one that made it.
pub(crate) async fn candidates(
    cx: &Context,
    room_id: &RoomId,
    user_id: &UserId,
    via: Vec<OwnedServerName>,
    known: Vec<String>,
) -> Result<Vec<OwnedServerName>, Failure> {
    let asked = cx.user(user_id).call(&GetAsked { room_id: room_id.to_owned() }).await?;
    let shown = asked.map(|asked| asked.servers).unwrap_or_default();
    let known = known.into_iter().filter_map(|name| OwnedServerName::try_from(name).ok());
    let founder = room_id.server_name().map(ToOwned::to_owned);
    let mut seen = BTreeSet::from([cx.server_name().to_owned()]);
    let all = via.into_iter().chain(shown).chain(known).chain(founder);
    Ok(all.filter(|server| seen.insert(server.clone())).take(SERVERS_MAX).collect())
}

impl<'a> Elsewhere<'a> {
    /// What a call was to change here, changed through those servers that may help.
    pub(crate) async fn of(
        cx: &'a Context,
        room_id: &'a RoomId,
        call: &'a ChangeMembership,
        via: Vec<OwnedServerName>,
        known: Vec<String>,
    ) -> Result<Self, Failure> {
        let MemberProfile { displayname, avatar_url } = call.profile.clone();
        let said = [("displayname", displayname), ("avatar_url", avatar_url), ("reason", call.reason.clone())];
        let words = said.into_iter().filter_map(|(field, value)| Some((field.to_owned(), value?.into()))).collect();
        Self::in_words(cx, room_id, (&call.target, words), via, known).await
    }

    /// The same with the content of a membership in its sender's own words.
    pub(crate) async fn in_words(
        cx: &'a Context,
        room_id: &'a RoomId,
        (user_id, words): (&'a UserId, Map<String, Value>),
        via: Vec<OwnedServerName>,
        known: Vec<String>,
    ) -> Result<Self, Failure> {
        let servers = candidates(cx, room_id, user_id, via, known).await?;
        Ok(Self { cx, room_id, user_id, servers, words })
    }

    /// Joins the room, through the first server that lets the user in, and answers the join's id. Spec: «The caller MAY
    /// try to join through another server».
    pub(crate) async fn join(&self, call_id: &str) -> Result<OwnedEventId, Failure> {
        let joined = self.join_through(call_id).await;
        if joined.is_err() {
            // Otherwise the room does so itself, later.
            match self.cx.room(self.room_id).call(&GiveUpJoin { join: call_id.to_owned() }).await {
                Ok(()) | Err(Failure::Absent | Failure::Refused(_)) => {}
                Err(failure) => tracing::error!(failure = %failure.into_fault(), "a join is not given up"),
            }
        }
        joined
    }

    async fn join_through(&self, call_id: &str) -> Result<OwnedEventId, Failure> {
        let (mut servers, mut refusal) = (self.servers.as_slice(), None);
        // Where somebody of ours is in the room, its members are known.
        let is_here = residence(self.cx, self.room_id).await?.has_ours();
        loop {
            let prepared = match self.prepare("join", &MembershipState::Join, servers).await {
                Err(Failure::Refused(last)) => return Err(refusal.unwrap_or(last).into()),
                prepared => prepared?,
            };
            servers = prepared.others;
            match self.join_with(&prepared, is_here, call_id).await {
                Ok(()) => return Ok(prepared.pdu.event_id().to_owned()),
                Err(Failure::Refused(no)) => drop(refusal.get_or_insert(no)),
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Joins with the help of one server, in the version that it said. Spec: `/make_join`: «If not provided, the room
    /// version is assumed to be either "1" or "2"»: their events are alike, and the create event tells which of them it
    /// is.
    async fn join_with(&self, prepared: &Prepared<'_>, is_here: bool, call_id: &str) -> Result<(), Failure> {
        let second = prepared.is_guessed.then(|| RoomVersion::parse("2")).transpose()?;
        let mut refusal = None;
        for version in [&prepared.version].into_iter().chain(&second) {
            match self.join_in_version(prepared, version, is_here, call_id).await {
                Ok(JoinedIn::ThisVersion) => return Ok(()),
                Ok(JoinedIn::AnotherVersion(no)) => drop(refusal.get_or_insert(no)),
                Err(failure) => return Err(failure),
            }
        }
        let no = refusal.unwrap_or_else(|| Refusal::Unknown(format!("{} cannot say what it is", prepared.server)));
        Err(no.into())
    }

    async fn join_in_version(
        &self,
        Prepared { server, pdu: join, .. }: &Prepared<'_>,
        version: &RoomVersion,
        is_here: bool,
        call_id: &str,
    ) -> Result<JoinedIn, Failure> {
        // Whoever hears of the join may send at once what comes after it.
        let begin = BeginJoin { room_version: version.as_str().to_owned(), join: call_id.to_owned() };
        match self.cx.room(self.room_id).call(&begin).await {
            Err(Failure::Refused(no)) => return Ok(JoinedIn::AnotherVersion(no)),
            begun => begun?,
        }
        register_room(self.cx.metadata(), self.room_id, self.cx.now_ms()).await?;
        let mut path = path_in_room("v2/send_join", self.room_id, join.event_id().as_str());
        if !is_here {
            path.push_str("?omit_members=true");
        }
        let bounds = Bounds { response_bytes_max: JOIN_BYTES_MAX, timeout_ms: JOIN_TIMEOUT_MS };
        let answer = self.cx.ask_streamed(server, Method::PUT, &path, Some(raw(join)?), bounds).await;
        let answer = answer.map_err(|error| self.not_taken(server, &error))?;
        let joined = self.take_in(server, answer.body, join, version, call_id).await;
        if let Err(Failure::Refused(no)) | Ok(JoinedIn::AnotherVersion(no)) = &joined {
            // Another server may tell more of the room.
            tracing::info!(%server, room_id = %self.room_id, %no, "a server's answer to a join is no good");
        }
        joined
    }

    /// Knocks on the room, and answers the knock's id.
    pub(crate) async fn knock(&self) -> Result<OwnedEventId, Failure> {
        #[derive(Deserialize)]
        struct Answer {
            knock_room_state: Vec<Box<RawValue>>,
        }
        let as_of_ms = Some(self.cx.now_ms());
        let (Prepared { server, pdu: knock, version, .. }, answer) =
            self.send("knock", &MembershipState::Knock, "v1").await?;
        let answer: Answer = serde_json::from_slice(&answer)
            .map_err(|error| Refusal::Unknown(format!("{server} answers nonsense: {error}")))?;
        // «Entries which are improperly signed or formatted SHOULD be removed»; most servers strip what they tell.
        let mut told = answer.knock_room_state;
        told.truncate(STRIPPED_EVENTS_MAX);
        let (whole, few_words): (Vec<_>, Vec<_>) = told.into_iter().partition(|event| is_whole(event, &version));
        let good = self.cx.good_pdus(self.room_id, &version, &whole).await?;
        let shown = good.iter().map(raw).chain(few_words.into_iter().map(Ok)).collect::<Result<Vec<_>, Failure>>()?;
        let mut state = stripped(&shown);
        state.push(event::stripped_json(&knock));
        let (resident, room_version) = (Some(server.clone()), Some(version.as_str()));
        let told = Told { event: Some(&knock), resident, state, room_version, as_of_ms, ..Told::default() };
        self.cx.tell_of_membership(self.user_id, self.room_id, MembershipState::Knock, told).await?;
        Ok(knock.event_id().to_owned())
    }

    /// Leaves the room: an invitation is turned down, a knock taken back. Where no server can be told, at least the
    /// user is rid of it. Answers the id of the event.
    ///
    /// # Errors
    /// Where no server can be told of a room that came to be here meanwhile, it is for that room to be left.
    pub(crate) async fn leave(&self) -> Result<OwnedEventId, Failure> {
        let as_of_ms = Some(self.cx.now_ms());
        let told = async {
            let (Prepared { server, pdu: leave, .. }, _) = self.send("leave", &MembershipState::Leave, "v2").await?;
            Ok::<_, Failure>((server, leave))
        };
        let leave = match told.await {
            Ok((server, leave)) if self.is_heard_here(server, &leave).await? => return Ok(leave.event_id().to_owned()),
            Ok((_, leave)) => leave,
            Err(failure) if residence(self.cx, self.room_id).await?.has_ours() => return Err(failure),
            Err(failure) => {
                tracing::info!(room_id = %self.room_id, ?failure, "no other server was told that a user left");
                self.unheard_leave()?
            }
        };
        self.tell_of_leave(&leave, as_of_ms).await?;
        Ok(leave.event_id().to_owned())
    }

    /// Whether the room is here after all, because the user, or somebody else, joined it while they were leaving, and
    /// has told the user what became of them. Where a join is under way, it has its time to end. A room that cannot
    /// judge what another server took, for want of members, has the user leave all the same.
    async fn is_heard_here(&self, server: &ServerName, leave: &Pdu) -> Result<bool, Failure> {
        let room = self.cx.room(self.room_id);
        let until_ms = self.cx.now_ms().saturating_add(JOINING_WAIT_MS);
        let can_judge = loop {
            match room.call(&GetIntake { server: server.to_owned() }).await {
                Ok(Intake { takes: Takes::Now, .. }) => break true,
                Ok(Intake { takes: Takes::Later, .. }) if self.cx.now_ms() < until_ms => {
                    self.cx.pause(MEMBERS_LOOK_MS).await;
                }
                Ok(Intake { takes: Takes::Later, .. }) => break false,
                Ok(Intake { takes: Takes::Never(_) | Takes::Denied(_), .. }) | Err(Failure::Absent) => {
                    return Ok(false);
                }
                Err(failure) => return Err(failure),
            }
        };
        if can_judge {
            match room.call(&ReceiveEvent::of(CheckedEvent::of(leave))).await? {
                Received::Accepted | Received::SoftFailed | Received::Rejected(_) => return Ok(true),
                Received::Needs(_) => {}
            }
        }
        let call = ChangeMembership::unattended_leave(leave.event_id().to_string(), self.user_id.to_owned());
        match room.call(&call).await {
            Ok(()) => Ok(true),
            Err(Failure::Refused(_)) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// Ends an invitation, or a knock, of which the room knows nothing.
    pub(crate) async fn forget_asked(&self) -> Result<(), Failure> {
        self.tell_of_leave(&self.unheard_leave()?, None).await
    }

    /// A leave that is for the user's own clients only. Its form is that of any version: which the room has is not
    /// sure.
    fn unheard_leave(&self) -> Result<Pdu, Failure> {
        let draft = Draft {
            event_type: TimelineEventType::RoomMember,
            content: to_raw_value(&self.content(&MembershipState::Leave))?,
            state_key: Some(self.user_id.to_string()),
            sender: self.user_id.to_owned(),
            redacts: None,
        };
        let origin_server_ts = self.cx.now_ms();
        let place =
            Place { room_id: Some(self.room_id), prev_events: &[], auth_events: &[], depth: 1, origin_server_ts };
        Ok(event::build(&draft, &place, &RoomVersion::parse("11")?, self.cx.identity(), self.cx.random()?)?)
    }

    /// The content of a membership.
    fn content(&self, membership: &MembershipState) -> Map<String, Value> {
        let mut content = self.words.clone();
        // Who vouches is the other server's to say.
        content.remove(VOUCHER);
        content.insert("membership".to_owned(), membership.as_str().into());
        content
    }

    /// The membership, completed and signed, as the first of these servers prepared it that does.
    async fn prepare<'s>(
        &self,
        what: &str,
        membership: &MembershipState,
        servers: &'s [OwnedServerName],
    ) -> Result<Prepared<'s>, Failure> {
        let mut path = path_in_room(&format!("v1/make_{what}"), self.room_id, self.user_id.as_str());
        for (index, version) in RoomVersion::ALL.iter().enumerate() {
            path.push(if index == 0 { '?' } else { '&' });
            path.push_str("ver=");
            path.push_str(version);
        }
        let mut refusal = None;
        for (server, others) in servers.iter().zip((1..).map(|asked| servers.get(asked..).unwrap_or_default())) {
            let answer = self.cx.ask_raw(server, Method::GET, &path, None, Bounds::default()).await;
            let template = answer.and_then(|(_, body)| {
                serde_json::from_slice::<Template>(&body).map_err(|error| AskError::Nonsense(error.to_string()))
            });
            match template {
                Ok(template) => match self.complete(&template, membership) {
                    Ok((pdu, version)) => {
                        let is_guessed = template.room_version.is_none();
                        return Ok(Prepared { server, pdu, version, is_guessed, others });
                    }
                    Err(Failure::Refused(nonsense)) => refusal = refusal.or(Some(nonsense)),
                    Err(failure) => return Err(failure),
                },
                Err(error) => {
                    tracing::debug!(%server, room_id = %self.room_id, %error, "a server does not help with a room");
                    refusal = refusal.or(refused(&error));
                }
            }
        }
        let nobody = || match servers {
            [] => Refusal::NotFound("No server that is in the room could be asked".to_owned()),
            _ => Refusal::OtherServer("No server that is in the room answers as it should".to_owned()),
        };
        Err(refusal.unwrap_or_else(nobody).into())
    }

    fn complete(&self, template: &Template, membership: &MembershipState) -> Result<(Pdu, RoomVersion), Failure> {
        // A server that says none means the first one, or the second, whose events are alike.
        let version = RoomVersion::parse(template.room_version.as_deref().unwrap_or("1"))?;
        let nonsense = || Refusal::Unknown("The other server prepared something else than was asked for".to_owned());
        #[derive(Deserialize)]
        struct Draft {
            content: Map<String, Value>,
        }
        let prepared: Draft = serde_json::from_str(template.event.get()).map_err(|_| nonsense())?;
        let mut content = self.content(membership);
        if let Some(voucher) = prepared.content.get(VOUCHER) {
            content.insert(VOUCHER.to_owned(), voucher.clone());
        }
        let content = to_raw_value(&content)?;
        let (identity, now_ms) = (self.cx.identity(), self.cx.now_ms());
        let pdu = event::complete(&template.event, &content, &version, identity, now_ms, self.cx.random()?)?;
        let is_asked_for = *pdu.event_type() == TimelineEventType::RoomMember
            && pdu.room_id() == self.room_id
            && pdu.sender() == self.user_id
            && pdu.state_key() == Some(self.user_id.as_str())
            && prepared.content.get("membership").and_then(Value::as_str) == Some(membership.as_str());
        if is_asked_for { Ok((pdu, version)) } else { Err(nonsense().into()) }
    }

    /// Has the first of the servers take the membership that prepares and takes it, and answers what it said. One that
    /// was not heard any more may have taken it as well: it is the same membership.
    async fn send(
        &self,
        what: &str,
        membership: &MembershipState,
        api_version: &str,
    ) -> Result<(Prepared<'_>, bytes::Bytes), Failure> {
        let (mut servers, mut refusal) = (self.servers.as_slice(), None);
        loop {
            let prepared = match self.prepare(what, membership, servers).await {
                Err(Failure::Refused(last)) => return Err(refusal.unwrap_or(last).into()),
                prepared => prepared?,
            };
            servers = prepared.others;
            let Prepared { server, pdu, .. } = &prepared;
            let path = path_in_room(&format!("{api_version}/send_{what}"), self.room_id, pdu.event_id().as_str());
            match self.cx.ask_raw(server, Method::PUT, &path, Some(raw(pdu)?), Bounds::default()).await {
                Ok((_, body)) => return Ok((prepared, body)),
                Err(error) => drop(refusal.get_or_insert(self.not_taken(server, &error))),
            }
        }
    }

    /// What the user is told of a membership that another server did not take.
    fn not_taken(&self, server: &ServerName, error: &AskError) -> Refusal {
        tracing::info!(%server, room_id = %self.room_id, %error, "a server did not take a membership");
        refused(error).unwrap_or_else(|| Refusal::OtherServer(format!("{server} does not answer as it should")))
    }

    /// What comes with the join becomes the room, if that has the version it was begun with.
    async fn take_in(
        &self,
        server: &ServerName,
        body: Arriving,
        join: &Pdu,
        version: &RoomVersion,
        call_id: &str,
    ) -> Result<JoinedIn, Failure> {
        let room = self.cx.room(self.room_id);
        let answer = Answer::Join;
        let arriving = ArrivingJoin { cx: self.cx, server, room_id: self.room_id, version, join: call_id, answer };
        let arrived = arriving.take(body).await?;
        if let Some(said) = arrived.room_version.as_ref().filter(|said| *said != version.as_str()) {
            let sentence =
                format!("{server} answers nonsense: a room of version {} that was made as {said:?}", version.as_str());
            return Ok(JoinedIn::AnotherVersion(Refusal::Unknown(sentence)));
        }
        let event = self.signed_join(server, arrived.event.as_deref(), join, version).await?;
        let omitted = arrived.omitted(server);
        let is_whole = omitted.is_none();
        let call = CompleteJoin { call_id: call_id.to_owned(), event, join: call_id.to_owned(), omitted };
        match room.call(&call).await? {
            Received::Accepted => {
                if !is_whole {
                    self.waits_for_members().await?;
                }
                Ok(JoinedIn::ThisVersion)
            }
            Received::Rejected(rule) => Err(Refusal::Forbidden(rule).into()),
            Received::SoftFailed | Received::Needs(_) => {
                let sentence = format!("{server} answers nonsense: a state without what it builds on");
                Err(Refusal::Unknown(sentence).into())
            }
        }
    }

    /// Most rooms are small, and whole in a moment.
    async fn waits_for_members(&self) -> Result<(), Failure> {
        let until_ms = self.cx.now_ms().saturating_add(MEMBERS_WAIT_MS);
        while self.cx.now_ms() < until_ms && !self.cx.room(self.room_id).call(&IsWhole {}).await? {
            self.cx.pause(MEMBERS_LOOK_MS).await;
        }
        Ok(())
    }

    /// The join, as the other server signed it, or as we did. Where a user of another server lets ours in, only the
    /// former is good: nobody takes a join that lacks the signature of that server. Spec: rooms v8, rule 4.2.
    async fn signed_join(
        &self,
        server: &ServerName,
        told: Option<&RawValue>,
        join: &Pdu,
        version: &RoomVersion,
    ) -> Result<CheckedEvent, Failure> {
        let ours = raw(join)?;
        for event in told.into_iter().chain([&*ours]) {
            if let Ok(read) = ReadPdu::read(event, version)
                && read.event_id == *join.event_id()
                && let Ok(pdu) = self.cx.check_pdu(version, read).await?
            {
                return Ok(CheckedEvent::of(&pdu));
            }
        }
        Err(Refusal::OtherServer(format!("{server} lets the user in, and does not sign the join")).into())
    }

    async fn tell_of_leave(&self, leave: &Pdu, as_of_ms: Option<u64>) -> Result<(), Failure> {
        let told = Told { event: Some(leave), as_of_ms, ..Told::default() };
        self.cx.tell_of_membership(self.user_id, self.room_id, MembershipState::Leave, told).await
    }
}

/// What a user is told of a membership, besides what it is.
#[derive(Default)]
pub(super) struct Told<'a> {
    /// The event that made it so.
    pub event: Option<&'a Pdu>,
    /// The server that took a knock.
    pub resident: Option<OwnedServerName>,
    /// What lets the user recognise the room.
    pub state: Vec<Box<RawValue>>,
    /// The version that the room has.
    pub room_version: Option<&'a str>,
    /// Whether it only ends an invitation or a knock.
    pub ends_asked: bool,
    /// Since when it may have been so, in milliseconds since the Unix epoch; `None`: now. What came after that comes
    /// after this.
    pub as_of_ms: Option<u64>,
}

impl Context {
    /// Tells a user of ours what became of their membership of a room that is not here.
    pub(super) async fn tell_of_membership(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
        membership: MembershipState,
        told: Told<'_>,
    ) -> Result<(), Failure> {
        let Told { event, resident, state: mut stripped_state, room_version, ends_asked, as_of_ms } = told;
        if matches!(membership, MembershipState::Leave | MembershipState::Ban) {
            let shown = event.map(|event| event::client_json(event, &event::Unsigned::default(), false));
            stripped_state.extend(shown);
        }
        let call = MembershipChanged {
            room_id: room_id.to_owned(),
            position: as_of_ms.unwrap_or_else(|| self.now_ms()),
            membership,
            event_id: event.map(|event| event.event_id().to_owned()),
            profile: None,
            stripped_state,
            predecessor: None,
            elsewhere: Some(user::Elsewhere {
                resident,
                room_version: room_version.map(ToOwned::to_owned),
                ends_asked,
            }),
        };
        self.user(user_id).call(&call).await
    }
}

/// What another server says of a room whose version somebody does not know.
fn incompatible(body: &Map<String, Value>) -> Refusal {
    let room_version = body.get("room_version").and_then(Value::as_str).unwrap_or_default().to_owned();
    Refusal::IncompatibleRoomVersion { room_version }
}

/// What a user is told of another server's no; `None` where it is none.
fn refused(error: &AskError) -> Option<Refusal> {
    let AskError::Refused { status, errcode, message, body } = error else { return None };
    Some(match (errcode.as_str(), status.as_u16()) {
        ("M_INCOMPATIBLE_ROOM_VERSION", _) => incompatible(body),
        (_, 404) => Refusal::NotFound(message.clone()),
        ("M_FORBIDDEN", _) | (_, 403) => Refusal::Forbidden(message.clone()),
        (errcode, 400) => return Refusal::by_other_server(errcode, message),
        _ => return None,
    })
}

#[cfg(test)]
mod resident_tests;
#[cfg(test)]
mod tests;
