//! One local user: credentials, devices, tokens, profile, filters, and the list of rooms that sync follows.
//!
//! | call | does |
//! |---|---|
//! | [`Create`] | registers the user, and a first device |
//! | [`PasswordHash`] | what a password is checked against |
//! | [`LogIn`], [`LogOut`] | a device and its token come and go |
//! | [`AddLoginToken`], [`LogInByToken`] | and come by a token that another client made |
//! | [`LogInOfAppservice`], [`PutDevice`] | or because an application service wants so |
//! | [`Refresh`] | new tokens for a device |
//! | [`Verify`] | whose device a token belongs to |
//! | [`GetDevices`], [`RenameDevice`], [`DeleteDevices`] | the user looks after their devices |
//! | [`ChangePassword`], [`ResetPassword`], [`Deactivate`], [`UpgradeGuest`] | and after their account |
//! | [`GetModeration`], [`Moderate`], [`GetSessions`] | administrators lock and suspend it, and look at it |
//! | [`GetProfile`], [`SetProfileField`] | who they are to others |
//! | [`AddFilter`], [`GetFilter`] | filters kept for the client |
//! | [`SetAccountData`], [`GetAccountData`], [`RoomsAccountData`], [`SetFullyRead`] | account data, of the account and for rooms |
//! | [`SetTag`], [`RemoveTag`], [`GetTags`] | how they sort their rooms |
//! | [`GetPushRules`], [`ChangePushRules`] | which events they are notified of |
//! | [`GetNotifyingRooms`] | where they may have been notified |
//! | [`SetPusher`], [`RemovePusher`], [`DropPusher`], [`GetPushers`] | where those notifications are sent |
//! | [`TakePushes`], [`AcknowledgePushes`], [`ReportPushFailure`], [`StopPushing`], [`StartMail`] | what is to be sent there, and what was |
//! | [`UploadKeys`], [`ClaimKeys`], [`GetKeys`] | keys for end-to-end encryption come, are used up and are shown |
//! | [`GetDeviceListUpdates`] | what other servers are told of the user's devices |
//! | [`UploadCrossSigning`], [`UploadSignatures`], [`GetSignatures`] | the user's own keys, and what they sign |
//! | [`ReceiveToDevice`] | messages to the user's devices |
//! | [`PutDehydratedDevice`], [`GetDehydratedDevice`], [`DeleteDehydratedDevice`], [`GetDehydratedEvents`] | the device that nobody is logged in on |
//! | [`CreateBackup`], [`GetBackup`], [`UpdateBackup`], [`DeleteBackup`] | backups of room keys |
//! | [`PutBackedUpKeys`], [`GetBackedUpKeys`], [`DeleteBackedUpKeys`] | the keys in them |
//! | [`GetAsked`], [`GetAskedRooms`] | by whom the user is invited to a room, or that they knocked; to which, and on which |
//! | [`AskInvite`] | whether they may be invited |
//! | [`MembershipChanged`], [`TransferSettings`], [`RoomForgotten`], [`Nudge`] | what rooms tell the user |
//! | [`GetNoticeRoom`], [`SetNoticeRoom`] | where the server speaks to them |
//! | [`JoinedRooms`], [`SharesRoom`], [`GetSharedWith`] | the rooms the user is in |
//! | [`GetSearchRooms`] | the rooms that a search goes through |
//! | [`GetOwnDeviceLists`] | whose keys changed, as far as the user's own stream tells |
//! | [`SyncPlan`], [`SyncClose`] | the two ends of a sync |
//! | [`SlidingPlan`], [`SlidingClose`] | those of a sliding sync |
//! | [`LearnFacts`], [`RoomsHeard`] | what its lists are filtered by; rooms that are in no window |
//! | [`PositionIn`] | where in a room a sync token stands |
//! | [`SetPresence`], [`GetPresence`] | how much of the user is there |
//! | [`PresenceTold`] | what rooms tell of others' presence |
//! | [`ServersCame`] | which other servers are to know of the user's presence |

mod account_data;
mod announce;
mod appservice;
mod ask_invite;
mod backed_up_keys;
mod change_password;
mod claim_keys;
mod create;
mod deactivate;
mod dehydrated_device;
mod device;
mod device_list_updates;
mod exceptions;
mod filter;
mod get_asked;
mod get_keys;
mod get_presence;
mod ignored;
mod key_backup;
mod key_counts;
mod log_in;
mod log_out;
mod login_token;
mod membership_changed;
mod moderation;
mod moves;
mod notices;
mod notifying_rooms;
mod nudge;
mod others_presence;
mod own_device_lists;
mod own_presence;
mod password_hash;
mod profile;
mod push_rules;
mod pushers;
mod pushes;
mod refresh;
mod reset_password;
mod room_forgotten;
mod search_rooms;
mod servers_came;
mod set_presence;
mod shares_room;
mod shown_room;
mod sliding;
mod store;
mod sync;
pub(crate) mod sync_token;
mod tags;
mod to_device;
mod transfer_settings;
mod typing;
mod upgrade_guest;
mod upload_cross_signing;
mod upload_keys;
mod upload_signatures;
mod verify;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use platform::{Fault, Sql, Tx};
use ruma_common::OwnedUserId;

use crate::{
    Call, Cx, Error,
    cx::PresenceTo,
    object::{Logic, Operation, operations},
    room::{
        ChangeMembership, ConfirmSuccessor, DeviceListChanged, EraseSender, GuestUpgraded, RefreshMember, TellOfDevices,
    },
};
use moves::Moves;
use store::{rooms::KnownRoom, stream::Gone};

pub use account_data::{
    AccountDataEvent, GetAccountData, RoomAccountData, RoomsAccountData, SetAccountData, SetFullyRead,
};
pub(crate) use announce::{Announced, News};
pub use appservice::{Acting, LogInOfAppservice, PutDevice};
pub use ask_invite::AskInvite;
pub use backed_up_keys::{
    BackedUpKey, BackedUpKeys, BackupChanged, DeleteBackedUpKeys, GetBackedUpKeys, KeyData, PutBackedUpKeys,
};
pub use change_password::ChangePassword;
pub use claim_keys::ClaimKeys;
pub use create::{Create, Created};
pub use deactivate::Deactivate;
pub use dehydrated_device::{
    DehydratedDevice, DehydratedEvents, DeleteDehydratedDevice, GetDehydratedDevice, GetDehydratedEvents,
    PutDehydratedDevice,
};
pub use device::{DeleteDevices, Device, GetDevices, RenameDevice};
pub use device_list_updates::{DeviceListUpdate, DeviceListUpdates, GetDeviceListUpdates, IdentityUpdate};
pub use filter::{AddFilter, GetFilter};
pub use get_asked::{Asked, GetAsked, GetAskedRooms};
pub use get_keys::{GetKeys, GetSignatures, KeySignatures, UserKeys};
pub use get_presence::GetPresence;
pub use key_backup::{BackupInfo, CreateBackup, DeleteBackup, GetBackup, UpdateBackup};
pub use key_counts::KeyCounts;
use log_in::check_password_hash;
pub use log_in::{LogIn, LoggedIn, NewDevice};
pub use log_out::{LogOut, LoggedOut};
pub use login_token::{AddLoginToken, LogInByToken};
pub use membership_changed::{Elsewhere, JoinedRooms, MembershipChanged};
pub use moderation::{GetModeration, GetSessions, Moderate, Moderation};
pub use notices::{GetNoticeRoom, SetNoticeRoom};
pub use notifying_rooms::{GetNotifyingRooms, ListedInvitation, NotifyingRooms, WantedInvitations};
pub use nudge::{Nudge, NudgeReply};
pub use others_presence::{PresenceHeard, PresenceTold, SyncPresence, waited_until};
pub use own_device_lists::GetOwnDeviceLists;
pub use password_hash::{PasswordHash, StoredPassword};
pub use profile::{FIELD_NAME_BYTES_MAX, GetProfile, ProfileChanged, SetProfileField, check_profile_field};
pub use push_rules::{ChangePushRules, GetPushRules};
pub use pushers::{DropPusher, GetPushers, OwnPusher, RemovePusher, SetPusher};
pub use pushes::{
    AcknowledgePushes, OwedPusher, OwedRoom, Pushes, ReportPushFailure, StartMail, StopPushing, TakePushes, ToldRoom,
    Unread,
};
pub use refresh::{NewToken, Refresh};
pub use reset_password::ResetPassword;
pub use room_forgotten::RoomForgotten;
pub use search_rooms::{GetSearchRooms, SearchRooms};
pub use servers_came::ServersCame;
pub use set_presence::SetPresence;
pub use shares_room::{GetSharedWith, SharesRoom};
pub(crate) use shown_room::SHOWN_EVENT_BYTES_MAX;
pub use sliding::{
    AskedRoom, DeviceRoom, LearnFacts, ListFilters, Passed, PlannedSliding, ReadSliding, RoomConfig, RoomsHeard, Scope,
    SlidingClose, SlidingClosed, SlidingExtensions, SlidingList, SlidingMessages, SlidingPlan, SlidingPlanned,
    WantedMessages,
};
pub use sync::{
    Closed, Plan, PlannedRoom, PositionIn, ReadRoom, StrippedRoom, SyncClose, SyncPlan, keys_left, typing_until,
};
pub use tags::{GetTags, RemoveTag, SetTag, Tag};
pub use to_device::{ReceiveToDevice, ToDeviceMessage, check_to_device, retain_to_device};
pub use transfer_settings::TransferSettings;
pub use typing::{PlannedTyping, ReadTyping};
pub use upgrade_guest::UpgradeGuest;
pub use upload_cross_signing::{CrossSigningUploaded, UploadCrossSigning};
pub use upload_keys::UploadKeys;
pub use upload_signatures::{Signed, UploadSignatures};
pub(crate) use verify::authenticate;
pub use verify::{Verified, Verify};

const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_init.sql"),
    include_str!("migrations/0002_account_data.sql"),
    include_str!("migrations/0003_devices.sql"),
    include_str!("migrations/0004_profile_in_rooms.sql"),
    include_str!("migrations/0005_presence.sql"),
    include_str!("migrations/0006_spill.sql"),
    include_str!("migrations/0007_keys.sql"),
    include_str!("migrations/0008_to_device.sql"),
    include_str!("migrations/0009_key_backup.sql"),
    include_str!("migrations/0010_dehydrated_device.sql"),
    include_str!("migrations/0011_bounds_of_keys.sql"),
    include_str!("migrations/0012_changed_keys.sql"),
    include_str!("migrations/0013_pushers.sql"),
    include_str!("migrations/0014_moderation.sql"),
    include_str!("migrations/0015_login_token.sql"),
    include_str!("migrations/0016_notices.sql"),
    include_str!("migrations/0017_elsewhere.sql"),
    include_str!("migrations/0018_backup_bytes.sql"),
    include_str!("migrations/0019_stream_head.sql"),
    include_str!("migrations/0020_asked_version.sql"),
    include_str!("migrations/0021_decided.sql"),
    include_str!("migrations/0022_sliding.sql"),
    include_str!("migrations/0023_filters.sql"),
    include_str!("migrations/0024_mail_asks.sql"),
];

/// The user whose actor this is.
fn own_id(cx: &Cx<'_>) -> Result<OwnedUserId, Fault> {
    OwnedUserId::try_from(cx.id).map_err(|_| Fault::new("a user has an id that is none"))
}

/// With more rooms than this, a change that all of them have to know is answered before they do.
const ROOMS_BEFORE_ANSWER_MAX: usize = 50;

/// How long work that is done in slices rests after one, in milliseconds.
const NEXT_SLICE_MS: u64 = 1_000;

/// How far the clocks of a user and a room may be apart, in milliseconds.
const CLOCKS_APART_MS: u64 = 1_000;

/// The User actor's memory. Everything in it can be read again from its database, but for who types and how others are.
#[derive(Default)]
pub(crate) struct User {
    moves: RefCell<Option<Moves>>,
    /// Tokens' exceptions, as far as they were too many for the tokens.
    spilled: RefCell<exceptions::SpilledRows>,
    /// The rooms that are being told of the profile, or of devices.
    announcing: RefCell<announce::Announcing>,
    /// When a sync was last planned, in milliseconds since the Unix epoch.
    planned_at_ms: Cell<Option<u64>>,
    /// Who types where, as rooms told it: this alone is nowhere else.
    typing: RefCell<typing::KnownTyping>,
    own_presence: RefCell<Option<own_presence::OwnPresence>>,
    /// How others are, as rooms told it.
    others: RefCell<Option<others_presence::Others>>,
    pushing: RefCell<pushes::Pushing>,
    /// The room list.
    rooms: RefCell<Option<Rc<Vec<KnownRoom>>>>,
    connections: RefCell<sliding::Connections>,
    /// When a connection was last used, in milliseconds since the Unix epoch.
    slid_at_ms: Cell<Option<u64>>,
}

impl User {
    /// Runs `body` on the stream of moves, read from the database if need be.
    fn with_moves<T>(&self, sql: &dyn Sql, body: impl FnOnce(&mut Moves) -> Result<T, Error>) -> Result<T, Error> {
        let mut moves = self.moves.borrow_mut();
        let moves = match moves.as_mut() {
            Some(moves) => moves,
            None => moves.insert(Moves::load(sql)?),
        };
        body(moves)
    }

    /// Deletes rows that bear positions of the user's stream: where the newest of it goes, the account keeps that, for
    /// no position is used again.
    fn forget(&self, tx: &Tx<'_>, rows: impl FnOnce(&Tx<'_>) -> Result<Gone, Fault>) -> Result<(), Error> {
        let head = self.with_moves(&**tx, |moves| Ok(moves.head))?;
        match rows(tx)?.newest() {
            Some(newest) if newest >= head => Ok(store::stream::set_head(tx, head)?),
            _ => Ok(()),
        }
    }
}

impl Logic for User {
    fn migrations(&self) -> &'static [&'static str] {
        MIGRATIONS
    }

    fn layout(&self) -> &'static str {
        include_str!("layout.sql")
    }

    fn operation(&self, name: &str) -> Option<Operation<'_>> {
        operations! { self, name;
            found Create => create,
            read PasswordHash => password_hash,
            write LogIn => log_in,
            write LogOut => log_out,
            write AddLoginToken => add_login_token,
            write LogInByToken => log_in_by_token,
            write LogInOfAppservice => log_in_of_appservice,
            write PutDevice => put_device,
            write Refresh => refresh,
            read Verify => verify,
            read GetDevices => devices,
            write RenameDevice => rename_device,
            write DeleteDevices => delete_devices,
            write ChangePassword => change_password,
            write ResetPassword => reset_password,
            write Deactivate => deactivate,
            write UpgradeGuest => upgrade_guest,
            read GetModeration => moderation,
            write Moderate => moderate,
            read GetSessions => sessions,
            read GetProfile => profile,
            write SetProfileField => set_profile_field,
            write AddFilter => add_filter,
            read GetFilter => filter,
            write SetAccountData => set_account_data,
            read GetAccountData => account_data,
            read RoomsAccountData => rooms_account_data,
            write SetFullyRead => set_fully_read,
            write SetTag => set_tag,
            write RemoveTag => remove_tag,
            read GetTags => tags,
            write UploadKeys => upload_keys,
            write ClaimKeys => claim_keys,
            read GetKeys => keys,
            read GetSignatures => signatures,
            read GetDeviceListUpdates => device_list_updates,
            write UploadCrossSigning => upload_cross_signing,
            write UploadSignatures => upload_signatures,
            write ReceiveToDevice => receive_to_device,
            write PutDehydratedDevice => put_dehydrated_device,
            read GetDehydratedDevice => dehydrated_device,
            write DeleteDehydratedDevice => delete_dehydrated_device,
            read GetDehydratedEvents => dehydrated_events,
            write CreateBackup => create_backup,
            read GetBackup => backup,
            write UpdateBackup => update_backup,
            write DeleteBackup => delete_backup,
            write PutBackedUpKeys => put_backed_up_keys,
            read GetBackedUpKeys => backed_up_keys,
            write DeleteBackedUpKeys => delete_backed_up_keys,
            read AskInvite => ask_invite,
            read GetAsked => get_asked,
            read GetAskedRooms => get_asked_rooms,
            read GetPushRules => push_rules,
            write ChangePushRules => change_push_rules,
            read GetNotifyingRooms => notifying_rooms,
            write SetPusher => set_pusher,
            write RemovePusher => remove_pusher,
            write DropPusher => drop_pusher,
            read GetPushers => pushers,
            read TakePushes => take_pushes,
            read StopPushing => stop_pushing,
            write StartMail => start_mail,
            write AcknowledgePushes => acknowledge_pushes,
            write ReportPushFailure => report_push_failure,
            write MembershipChanged => membership_changed,
            write TransferSettings => transfer_settings,
            write RoomForgotten => room_forgotten,
            write Nudge => nudge,
            read GetNoticeRoom => notice_room,
            write SetNoticeRoom => set_notice_room,
            read JoinedRooms => joined_rooms,
            read SharesRoom => shares_room,
            read GetSharedWith => get_shared_with,
            read GetSearchRooms => search_rooms,
            read GetOwnDeviceLists => device_lists,
            wait SyncPlan => sync_plan,
            write SyncClose => sync_close,
            read SlidingPlan => sliding_plan,
            write SlidingClose => sliding_close,
            write LearnFacts => learn_facts,
            write RoomsHeard => rooms_heard,
            read PositionIn => position_in,
            write SetPresence => set_presence,
            read GetPresence => presence,
            read PresenceTold => presence_told_by_room,
            read ServersCame => servers_came,
        }
    }

    fn due(&self, tx: &Tx<'_>, cx: &Cx<'_>, what: &str) -> Result<bool, Error> {
        match (News::of_due(what), what) {
            (Some(news), _) => self.resume_announcement(tx, cx, news)?,
            (None, to_device::SENDERS_DUE) => Self::forget_senders(tx, cx)?,
            (None, key_backup::DELETED_DUE) => Self::remove_deleted_backups(tx, cx)?,
            (None, _) => return Ok(false),
        }
        Ok(true)
    }

    fn announced(&self, tx: &Tx<'_>, cx: &Cx<'_>, announced: &Announced, is_delivered: bool) -> Result<(), Error> {
        User::announced(self, tx, cx, announced, is_delivered)
    }

    fn unsettled(&self) {
        self.announcement_unsettled();
        self.others_not_asked();
    }

    fn owed_call(&self) -> fn(&str) -> Option<&'static str> {
        const OWED: [&str; 7] = [
            ConfirmSuccessor::NAME,
            RefreshMember::NAME,
            DeviceListChanged::NAME,
            TellOfDevices::NAME,
            ChangeMembership::NAME,
            GuestUpgraded::NAME,
            EraseSender::NAME,
        ];
        |name| OWED.into_iter().find(|known| *known == name)
    }

    fn write_notes(&self, tx: &Tx<'_>, cx: &Cx<'_>) -> Result<(), Error> {
        User::write_notes(tx, cx)?;
        self.forget_removed(tx, cx)?;
        let keyless = cx.user.keyless_device_changed.take();
        if cx.user.device_list_changed.take() {
            self.announce_device_list(tx, cx)?;
        } else if keyless {
            self.announce_keyless_device(tx, cx)?;
        }
        self.presence_left(tx, cx)
    }

    fn committed(&self, _sql: &dyn Sql, _cx: &Cx<'_>) -> Result<(), Error> {
        if let Some(moves) = self.moves.borrow_mut().as_mut() {
            moves.uncommitted = false;
        }
        self.announcement_committed();
        if let Some(own) = self.own_presence.borrow_mut().as_mut() {
            own.uncommitted = false;
        }
        Ok(())
    }

    fn rolled_back(&self) {
        self.forget_spilled();
        self.connections_rolled_back();
        self.room_list_changed();
        self.announcement_rolled_back();
        let mut moves = self.moves.borrow_mut();
        if moves.as_ref().is_some_and(|moves| moves.uncommitted) {
            *moves = None;
        }
        self.presence_rolled_back();
        self.pushers_changed();
    }

    fn alarm(&self, tx: &Tx<'_>, cx: &Cx<'_>) -> Result<(), Error> {
        self.presence_checked(tx, cx)?;
        self.look_for_a_carrier(&**tx, cx)
    }

    fn presence_told(&self, tx: &Tx<'_>, cx: &Cx<'_>, told: &PresenceTo, reply: Option<&[u8]>) -> Result<(), Error> {
        self.presence_answered_by(tx, cx, told, reply)
    }
}
