//! One room: its log of events, its state, its members.
//!
//! The room decides what happens in it and in which order; everyone else follows its log with a cursor.
//! A *position* is the arrival of a change in the log; every accepted event takes one.
//!
//! | call | does |
//! |---|---|
//! | [`Create`] | founds the room with its first events |
//! | [`SendEvent`] | appends a message or a state event, once per transaction |
//! | [`RedactEvent`] | strips an event, once per transaction |
//! | [`ReceiveEvent`] | takes an event of another server into the graph |
//! | [`ReceiveEvents`] | takes several, one after the other |
//! | [`KeepWaiting`], [`TakeWaiting`], [`EndWaiting`], [`StopFetching`] | events that wait for what they build on |
//! | [`KeepSigned`] | the policy server signed an event that is to be sent or received |
//! | [`GetResidence`] | whether this server knows what happens in it |
//! | [`PrepareInvite`] | invites a user of another server |
//! | [`PrepareMembership`], [`AdmitMembership`], [`GetShownState`] | lets in a user of another server, or out |
//! | [`BeginJoin`], [`StageEvents`], [`JudgeStaged`], [`CompleteJoin`], [`GiveUpJoin`] | a user of ours joins a room of other servers |
//! | [`TakeOmitted`], [`CompleteState`], [`IsWhole`] | the members that the answer to a join left out are fetched |
//! | [`GetIntake`] | what the room does with the events that a server sends |
//! | [`GetOutgoing`], [`GetNewestOutgoing`] | what goes to another server, and the newest of it when it was away for long |
//! | [`GetForAppservice`] | what goes to an application service |
//! | [`GetEventsForServer`], [`GetStateIds`], [`GetHeldEvents`], [`GetVersionForServer`] | what another server asks for |
//! | [`GetExtremities`], [`GetMissing`] | what is to be asked of another server |
//! | [`PlaceHistory`] | places what other servers had of the room's history |
//! | [`HoldEvents`] | keeps events of states and auth chains beside the log |
//! | [`ChangeMembership`] | join, invite, leave, kick, ban, unban, knock |
//! | [`GetJoinConditions`], [`IsJoined`] | who may join without an invitation |
//! | [`Forget`] | a user who left forgets the room |
//! | [`EraseSender`] | who comes later sees nothing of what a user said |
//! | [`PrepareUpgrade`], [`CompleteUpgrade`], [`ConfirmSuccessor`] | another room replaces this one |
//! | [`RefreshMember`], [`GuestUpgraded`] | a member's profile changed, a guest became a user |
//! | [`DeviceListChanged`], [`DeviceListsChanged`], [`TellOfDevices`], [`GetDeviceLists`] | a member's devices or keys changed, or are to be known to servers that they were not; whose did |
//! | [`MarkRead`], [`HearReceipts`] | receipts: how far a user has read, and users of another server |
//! | [`SetTyping`] | a user types, or stops |
//! | [`Delta`] | what happened since a cursor, for one user's sync |
//! | [`SlidingDelta`], [`GetRequiredState`] | the same for a sliding sync |
//! | [`GetFacts`], [`Listen`], [`GetDevicesSince`] | what its lists are filtered by; rooms that are in no window |
//! | [`Watch`] | what happens, for who need not be in the room |
//! | [`Messages`] | a page of history |
//! | [`GetEvent`], [`GetContext`] | one event, alone or with what happened around it |
//! | [`GetRelations`], [`GetThreads`] | the events that relate to one, and those that threads begin with, in pages |
//! | [`Search`], [`GetSearchResults`] | the events with some words in them |
//! | [`EventByTimestamp`], [`EventByTimestampForServer`] | the event closest to a time |
//! | [`GetState`], [`GetStateEvent`] | the state a user may see, in pages, or one event of it |
//! | [`GetMembers`], [`GetJoinedMembers`] | who is in the room, in pages |
//! | [`JoinedAmong`], [`JoinedSince`] | which of some users are in it now, and which have been throughout since a position |
//! | [`GetAccess`] | whether a user is in the room, or may read it anyway |
//! | [`SetCanonicalAlias`], [`WithdrawAlias`] | the aliases the room lists |
//! | [`SetAlias`] | an alias of an application service's that it need not list |
//! | [`SetPublished`], [`IsPublished`], [`SetNetwork`] | its place in the directory, and in those of other networks |
//! | [`GetSummary`], [`IsServerJoined`] | the room in a few words, its children, and who may know of them |
//! | [`DescribeForInvitation`] | what whoever is invited by an address gets to read of it |
//! | [`ReadNotifications`] | what a user's pushers are told of the room |
//! | [`ListNotifications`] | what of it a user was notified of, read or not |
//! | [`SearchMembers`] | the members who are called like something |
//! | [`TellPresence`], [`HearPresences`] | passes a member's presence on to the others |
//!
//! Out of scope: who a user is, what their devices have read (the User's business); checking signatures, and talking to
//! other servers (the request tier's).

mod access;
mod append;
mod appservices;
mod auth_use;
mod beside;
mod bundle;
mod catch_up;
mod change_membership;
mod check_relation;
mod company;
mod complete_upgrade;
mod confirm_successor;
mod context;
mod create;
mod delta;
mod describe_for_invitation;
mod device_lists;
mod directory;
mod ephemeral;
mod erase_sender;
mod event_by_timestamp;
mod event_filter;
mod event_format;
mod follow;
mod forget;
mod get_for_appservice;
mod get_outgoing;
mod get_relations;
mod get_required_state;
mod get_threads;
mod graph;
mod guests;
mod hear_receipts;
mod history;
mod inbox;
mod intake;
mod join_remote;
mod joined_among;
mod joined_since;
mod judge;
mod list_notifications;
mod mark_read;
mod members;
mod messages;
mod networks;
mod notices;
mod omitted_members;
mod open;
mod policy;
#[cfg(test)]
mod positions;
mod prepare_upgrade;
mod presence;
mod presence_elsewhere;
mod read_notifications;
mod receive;
mod receive_events;
mod redact_event;
mod redactions;
mod refresh_member;
mod remembered;
mod required_state;
mod resident;
mod restricted_join;
mod retention;
mod search;
mod search_members;
mod search_results;
mod send_event;
mod sent_members;
mod server_sight;
mod server_stays;
mod servers;
mod set_canonical_alias;
mod sliding;
mod staging;

mod state;
mod state_reset;
mod store;
mod summary;
mod synced_state;
mod thread;
mod token;
mod transactions;
mod typing;
mod unread;
mod viewer;
mod walk;
mod watch;
mod withdraw_alias;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use domain::{RoomVersion, appservice::SIGIL, policy_server::PolicyServer, standing::Standing};
use platform::{Fault, Sql, Tx};

use crate::{
    Cx, Error,
    cx::{Nudged, PresenceTo},
    object::{Logic, Operation, operations},
};

pub use access::{Access, GetAccess};
pub use appservices::SetAlias;
#[cfg(test)]
pub(crate) use auth_use::kept_and_counted;
pub use catch_up::{GetNewestOutgoing, NewestOutgoing};
pub use change_membership::{ChangeMembership, MemberProfile, MembershipAction};
pub use complete_upgrade::CompleteUpgrade;
pub use confirm_successor::ConfirmSuccessor;
pub use context::{EventContext, GetContext};
pub use create::{Create, Created, FirstEvent, NewEvent};
pub use delta::{Delta, DeltaReply, Section};
pub use describe_for_invitation::{DescribeForInvitation, DescribedRoom};
pub use device_lists::{
    DeviceListChanged, DeviceLists, DeviceListsChanged, DevicesSince, GetDeviceLists, GetDevicesSince, TellOfDevices,
};
pub use directory::{IsPublished, SetPublished};
pub use erase_sender::EraseSender;
pub use event_by_timestamp::{ClosestEvent, EventByTimestamp, EventByTimestampForServer, TimedEvent};
pub use event_filter::EventFilter;
pub use event_format::EventFormat;
pub use forget::Forget;
pub use get_for_appservice::{ForAppservice, GetForAppservice, WantedEvents};
pub use get_outgoing::{
    Extremities, GetEventsForServer, GetExtremities, GetHeldEvents, GetMissing, GetOutgoing, GetStateIds,
    GetVersionForServer, Outgoing, StateIds, Wanted,
};
pub use get_relations::{GetRelations, RelationsPage};
pub use get_required_state::GetRequiredState;
pub use get_threads::{GetThreads, ThreadsPage};
#[cfg(test)]
pub(crate) use graph::{current_extremities, current_state};
pub use guests::GuestUpgraded;
pub use hear_receipts::HearReceipts;
pub use history::{Gap, HISTORY_EVENTS_MAX, PlaceHistory, Placed};
pub use inbox::{AllWaiting, EndWaiting, KeepWaiting, StopFetching, TakeWaiting, Waiting};
pub use intake::{GetIntake, Intake, Takes};
pub use join_remote::{BeginJoin, CompleteJoin, GiveUpJoin};
pub use joined_among::JoinedAmong;
pub use joined_since::{JoinedSince, JoinedThroughout};
pub use list_notifications::{ListNotifications, ListedNotification, ListedNotifications};
pub use mark_read::{MarkRead, NewReceipt, ReceiptKind, is_thread};
pub use members::{GetJoinedMembers, GetMembers, JoinedMember, JoinedMembersPage};
pub use messages::{Direction, GetEvent, Messages, MessagesPage};
pub use networks::SetNetwork;
pub use omitted_members::{CompleteState, IsWhole, OmittedMembers, TakeOmitted, ToFetch, UncheckedEvent};
pub use policy::{KeepSigned, Unsigned};
pub use prepare_upgrade::{PrepareUpgrade, Successor};
pub use presence::{TellPresence, WhoIsThere};
pub use presence_elsewhere::{HearPresences, MembersHeard};
pub use read_notifications::{Notification, Notifications, ReadNotifications};
pub(crate) use receive::LEAD_MAX;
pub use receive::{CheckedEvent, HELD_AT_ONCE_MAX, HoldEvents, Needs, ReceiveEvent, Received, ToldState};
pub use receive_events::{RECEIVED_AT_ONCE_MAX, ReceiveEvents};
pub use redact_event::RedactEvent;
pub use refresh_member::RefreshMember;
pub use required_state::{RequiredState, Selection, StatePattern};
pub use resident::{
    AdmitMembership, GetResidence, GetShownState, PrepareInvite, PrepareMembership, PreparedInvite, PreparedMembership,
    Residence,
};
pub use restricted_join::{GetJoinConditions, IsJoined, JoinConditions};
pub use search::{Found, Hit, Reached, Search, SearchKey, SearchOrder};
pub use search_members::{FoundMember, FoundMembers, SearchMembers};
pub use search_results::{GetSearchResults, ResultContext, SearchResult, WantedContext};
pub use send_event::SendEvent;
pub use set_canonical_alias::SetCanonicalAlias;
pub use sliding::{Facts, GetFacts, Listen, SlidingDelta, SlidingReply};
pub use staging::{JudgeStaged, Judged, StageEvents};
pub use state::{GetState, GetStateEvent, StateEvent, StateKey, StatePage, Synced};
#[cfg(test)]
pub(crate) use store::graph::LOG_START;
pub use summary::{Asker, GetSummary, IsServerJoined, Summary};
pub use synced_state::MoreState;
pub use token::RoomToken;
pub use typing::{SetTyping, Typing};
#[cfg(test)]
pub(crate) use unread::SCAN_MAX as UNREAD_SCAN_MAX;
pub use watch::{Watch, Watched, WatchedSince};
pub use withdraw_alias::WithdrawAlias;

const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_init.sql"),
    include_str!("migrations/0002_receipts.sql"),
    include_str!("migrations/0003_redactions.sql"),
    include_str!("migrations/0004_forgotten.sql"),
    include_str!("migrations/0005_guests.sql"),
    include_str!("migrations/0006_followers.sql"),
    include_str!("migrations/0007_device_lists.sql"),
    include_str!("migrations/0008_graph.sql"),
    include_str!("migrations/0009_servers.sql"),
    include_str!("migrations/0010_relations.sql"),
    include_str!("migrations/0011_history.sql"),
    include_str!("migrations/0012_stage.sql"),
    include_str!("migrations/0013_erased.sql"),
    include_str!("migrations/0014_early_redactions.sql"),
    include_str!("migrations/0015_inbox.sql"),
    include_str!("migrations/0016_withheld.sql"),
    include_str!("migrations/0017_beside.sql"),
    include_str!("migrations/0018_auth_use.sql"),
    include_str!("migrations/0019_invited.sql"),
    include_str!("migrations/0020_gaps.sql"),
    include_str!("migrations/0021_redacted_state.sql"),
    include_str!("migrations/0022_known_servers.sql"),
];

/// The Room actor's memory. Everything in it can be read again from its database, but for who types.
#[derive(Default)]
pub(crate) struct Room {
    version: RefCell<Option<Rc<RoomVersion>>>,
    /// The newest positions, once read.
    heads: Cell<Option<Heads>>,
    followers: RefCell<Option<follow::Followers>>,
    transactions: RefCell<Option<transactions::Recent>>,
    /// Who describes the room.
    company: RefCell<Option<Rc<company::Company>>>,
    /// Who has which power, as long as that stays.
    standing: RefCell<Option<Rc<Standing>>>,
    counts: RefCell<unread::Counts>,
    sent_members: RefCell<sent_members::Devices>,
    /// Who types: this alone is nowhere else.
    typists: RefCell<typing::Typists>,
    presences: RefCell<Option<presence::Presences>>,
    servers: RefCell<Option<servers::Servers>>,
    appservices: RefCell<Option<appservices::Appservices>>,
    fetching: RefCell<inbox::Fetching>,
    generations: graph::Generations,
    /// Who is asked about events, once read.
    policy_server: RefCell<Option<Option<Rc<PolicyServer>>>>,
    signed: RefCell<policy::Signed>,
    early_receipts: RefCell<mark_read::Early>,
}

/// The newest positions of the log.
#[derive(Debug, Clone, Copy)]
struct Heads {
    /// Of everything.
    log: u64,
    /// Of what is for everybody: not of private receipts.
    public: u64,
    /// Of events.
    events: u64,
}

impl Room {
    fn version(&self, sql: &dyn Sql) -> Result<Rc<RoomVersion>, Error> {
        if let Some(version) = &*self.version.borrow() {
            return Ok(version.clone());
        }
        let id = store::meta::text(sql, "version")?.ok_or_else(|| Fault::new("the room has no version"))?;
        let version = Rc::new(RoomVersion::parse(&id)?);
        Ok(self.version.borrow_mut().insert(version).clone())
    }

    fn heads(&self, sql: &dyn Sql) -> Result<Heads, Fault> {
        if let Some(heads) = self.heads.get() {
            return Ok(heads);
        }
        let events = store::log::head_position(sql)?;
        let changes = events.max(store::device_lists::head(sql)?).max(omitted_members::whole_since(sql)?);
        let heads = Heads {
            log: changes.max(store::receipts::head(sql)?),
            public: changes.max(store::receipts::public_head(sql)?),
            events,
        };
        self.heads.set(Some(heads));
        Ok(heads)
    }

    /// Forgets who is in the room, and what follows from it: it is read again.
    fn forget_company(&self) {
        *self.company.borrow_mut() = None;
        *self.standing.borrow_mut() = None;
        *self.servers.borrow_mut() = None;
        *self.presences.borrow_mut() = None;
    }

    /// The newest position of the log.
    fn head(&self, sql: &dyn Sql) -> Result<u64, Fault> {
        Ok(self.heads(sql)?.log)
    }
}

impl Logic for Room {
    fn migrations(&self) -> &'static [&'static str] {
        MIGRATIONS
    }

    fn layout(&self) -> &'static str {
        include_str!("layout.sql")
    }

    fn operation(&self, name: &str) -> Option<Operation<'_>> {
        operations! { self, name;
            found Create => create,
            write SendEvent => send_event,
            write RedactEvent => redact_event,
            write ReceiveEvent => receive_event,
            write ReceiveEvents => receive_events,
            write HoldEvents => hold_events,
            read KeepSigned => keep_signed,
            write KeepWaiting => keep_waiting,
            write TakeWaiting => take_waiting,
            write EndWaiting => end_waiting,
            write StopFetching => stop_fetching,
            read GetIntake => get_intake,
            write PlaceHistory => place_history,
            found BeginJoin => begin_join,
            write StageEvents => stage_events,
            write JudgeStaged => judge_staged,
            write CompleteJoin => complete_join,
            write GiveUpJoin => give_up_join,
            write TakeOmitted => take_omitted,
            write CompleteState => complete_state,
            read IsWhole => is_whole,
            read PrepareMembership => prepare_membership,
            write AdmitMembership => admit_membership,
            read GetShownState => get_shown_state,
            read PrepareInvite => prepare_invite,
            read GetResidence => get_residence,
            read GetOutgoing => get_outgoing,
            read GetForAppservice => get_for_appservice,
            read GetNewestOutgoing => get_newest_outgoing,
            read GetEventsForServer => get_events_for_server,
            read GetStateIds => get_state_ids,
            read GetHeldEvents => get_held_events,
            read GetVersionForServer => get_version_for_server,
            read GetExtremities => get_extremities,
            read GetMissing => get_missing,
            write ChangeMembership => change_membership,
            write GuestUpgraded => guest_upgraded,
            read GetJoinConditions => join_conditions,
            read IsJoined => is_joined,
            read JoinedAmong => joined_among,
            read JoinedSince => joined_since,
            write Forget => forget,
            write EraseSender => erase_sender,
            write PrepareUpgrade => prepare_upgrade,
            write CompleteUpgrade => complete_upgrade,
            write ConfirmSuccessor => confirm_successor,
            write RefreshMember => refresh_member,
            write DeviceListChanged => device_list_changed,
            write DeviceListsChanged => device_lists_changed,
            write TellOfDevices => tell_of_devices,
            read GetDeviceLists => device_lists,
            read GetDevicesSince => devices_since,
            write MarkRead => mark_read,
            write HearReceipts => hear_receipts,
            read SetTyping => set_typing,
            write SetCanonicalAlias => set_canonical_alias,
            write WithdrawAlias => withdraw_alias,
            write SetAlias => set_alias,
            write SetPublished => set_published,
            write Delta => delta,
            write SlidingDelta => sliding_delta,
            read GetRequiredState => required_state,
            read GetFacts => facts,
            write Listen => listen,
            write ReadNotifications => read_notifications,
            read ListNotifications => list_notifications,
            read Messages => messages,
            read GetEvent => event,
            wait Watch => watch,
            read GetContext => context,
            read GetRelations => relations,
            read GetThreads => threads,
            write Search => search,
            read GetSearchResults => search_results,
            read EventByTimestamp => event_by_timestamp,
            read EventByTimestampForServer => event_by_timestamp_for_server,
            read GetState => state,
            read GetStateEvent => state_event,
            read GetMembers => members,
            read GetJoinedMembers => joined_members,
            read GetAccess => access,
            read IsPublished => is_published,
            write SetNetwork => set_network,
            read DescribeForInvitation => describe_for_invitation,
            read GetSummary => get_summary,
            read IsServerJoined => is_server_joined,
            read SearchMembers => search_members,
            read TellPresence => tell_presence,
            read HearPresences => hear_presences,
        }
    }

    fn owed_call(&self) -> fn(&str) -> Option<&'static str> {
        append::owed_call
    }

    fn committed(&self, sql: &dyn Sql, cx: &Cx<'_>) -> Result<(), Error> {
        self.company_changed(&cx.room.members.borrow());
        if cx.room.power_changed.get() {
            *self.standing.borrow_mut() = None;
        }
        if cx.room.policy_changed.get() {
            *self.policy_server.borrow_mut() = None;
        }
        let left = cx.room.left();
        let moved = cx.head.get();
        if let Some(log) = moved {
            let before = self.heads(sql)?;
            let public = cx.room.public_head.get().unwrap_or(before.public);
            let events = cx.room.event_head.get().unwrap_or(before.events);
            self.heads.set(Some(Heads { log, public, events }));
            self.remember_transactions(cx);
            // Whoever watches without being in the room is nobody's follower.
            cx.wake();
        }
        self.followers_changed(sql, cx)?;
        let typing = self.typing_committed(cx)?;
        if moved.is_some() || self.is_untold(typing) {
            self.nudge(sql, cx, typing)?;
        }
        self.followers_committed();
        self.servers_committed(sql, cx)?;
        self.appservices_hear_typing(sql, cx, typing)?;
        self.appservices_committed(cx)?;
        self.presence_elsewhere_committed(sql, cx)?;
        self.presence_committed(sql, cx, &left)
    }

    fn rolled_back(&self) {
        // Read, perhaps, in the transaction that is gone.
        *self.version.borrow_mut() = None;
        *self.policy_server.borrow_mut() = None;
        self.heads.set(None);
        self.followers_rolled_back();
        self.servers_rolled_back();
        self.appservices_rolled_back();
        self.presence_rolled_back();
    }

    fn unsettled(&self) {
        // The alarm tells everybody again.
        *self.followers.borrow_mut() = None;
        *self.servers.borrow_mut() = None;
        *self.appservices.borrow_mut() = None;
        *self.transactions.borrow_mut() = None;
        *self.presences.borrow_mut() = None;
    }

    fn due(&self, tx: &Tx<'_>, cx: &Cx<'_>, what: &str) -> Result<bool, Error> {
        match what {
            directory::DUE => directory::refresh(tx, cx).map(|()| true),
            retention::DUE => self.expire(tx, cx).map(|()| true),
            search::DUE => self.index_on(tx, cx).map(|()| true),
            staging::DUE => self.stage_due(tx, cx).map(|()| true),
            inbox::DUE => self.look_for_a_fetcher(tx, cx).map(|()| true),
            guests::DUE => self.expel_more_guests(tx, cx).map(|()| true),
            _ => Ok(false),
        }
    }

    fn alarm(&self, tx: &Tx<'_>, cx: &Cx<'_>) -> Result<(), Error> {
        self.check_nudges(tx, cx)?;
        self.check_servers(&**tx, cx)?;
        self.check_appservices(tx, cx)
    }

    fn nudged(&self, tx: &Tx<'_>, cx: &Cx<'_>, nudged: &Nudged, reply: Option<&[u8]>) -> Result<(), Error> {
        if nudged.follower.starts_with('@') {
            self.nudge_answered(tx, cx, nudged, reply)
        } else if nudged.follower.starts_with(SIGIL) {
            self.appservice_answered(cx, nudged, reply)
        } else {
            self.server_answered(tx, cx, nudged, reply)
        }
    }

    fn presence_told(&self, tx: &Tx<'_>, cx: &Cx<'_>, told: &PresenceTo, reply: Option<&[u8]>) -> Result<(), Error> {
        if told.peer.starts_with('@') {
            self.presence_answered(tx, cx, (&told.peer, told.serial), reply)
        } else {
            self.servers_presence(tx, cx, (&told.peer, told.serial), reply)
        }
    }
}
