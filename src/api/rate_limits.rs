//! Rate limits: which endpoint is limited by what, and how much of each limit is used up. Spec: "Rate limiting".
//!
//! The limits of an endpoint stand in [`of_endpoints`] and hold before its handler runs; whatever else the
//! specification says is rate-limited has [`Limits::of_any`]. Only what a handler alone knows is taken by it, with
//! [`Context::limit`](crate::Context::limit): whose account a login is for, whether the password was right.
//!
//! Counted here and not by actors: what is refused must cost next to nothing, and names that do not exist must be
//! counted like those that do. The counts are of one process natively and of one isolate on Workers, and die with it.
//! Nobody is exempt, administrators included, but application services whose registration says so.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use domain::{RateLimit, RateLimited, Refusal, TokenBucket};
use http::{Method, Request};
use ruma_client_api::{
    account::{
        add_3pid, change_password, check_registration_token_validity, deactivate, register,
        request_3pid_management_token_via_email, request_openid_token, request_password_change_token_via_email,
        request_registration_token_via_email,
    },
    authenticated_media::get_media_preview,
    directory::{get_public_rooms, get_public_rooms_filtered},
    keys::{claim_keys, get_key_changes, get_keys, upload_signatures},
    knock::knock_room,
    media::{
        create_content, create_mxc_uri, get_content, get_content_as_filename,
        get_media_preview as get_media_preview_deprecated,
    },
    membership::{forget_room, invite_user, join_room_by_id, join_room_by_id_or_alias},
    message::send_message_event,
    presence::{get_presence, set_presence},
    profile::{delete_profile_field, set_profile_field},
    push::{get_notifications, set_pusher, set_pushrule},
    read_marker::set_read_marker,
    receipt::create_receipt,
    redact::redact_event,
    reporting::report_user,
    room::{create_room, report_content, report_room, upgrade_room},
    search::search_events,
    session::{get_login_token, login},
    state::send_state_event,
    thirdparty::{
        get_location_for_protocol, get_location_for_room_alias, get_protocol, get_protocols, get_user_for_protocol,
        get_user_for_user_id,
    },
    to_device::send_event_to_device,
    typing::create_typing_event,
    uiaa::get_uiaa_fallback_page,
    user_directory::search_users,
};
use ruma_common::{
    RoomId, UserId,
    api::{Metadata, path_builder::PathBuilder},
};
use ruma_events::room::member::MembershipState;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::{ClientAddress, Failure, authenticate::token, client::INVITED_MAX, mail::validation, recent::Recent, uiaa};

/// How many subjects of one limit are remembered for certain; at most twice as many are. Who is forgotten has the whole
/// burst again: for a guesser that costs as many requests as this number.
const SUBJECTS_MAX: usize = 10_000;

/// What limits every endpoint, by method and path.
pub(crate) type OfEndpoints = HashMap<(Method, &'static str), Limits>;

/// What limits one endpoint.
#[derive(Clone, Copy, Default)]
pub(crate) struct Limits {
    pub limited: &'static [RateLimited],
    /// The path ends in a transaction id: the same request again is the same event.
    pub is_transaction: bool,
}

impl Limits {
    /// Those of an endpoint that has none of its own, but that the specification has limited.
    pub(crate) fn of_any() -> Self {
        Self { limited: &[RateLimited::Requests], is_transaction: false }
    }
}

/// What ruma does not model: what the specification has limited, and what asks every room of a user.
const UNKNOWN_TO_RUMA: [&str; 6] = [
    "/_matrix/client/v1/mutual_rooms",
    "/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms",
    "/_matrix/client/v3/initialSync",
    "/_matrix/client/r0/initialSync",
    "/_matrix/client/v3/events/{event_id}",
    "/_matrix/client/r0/events/{event_id}",
];

/// What limits which endpoint.
pub(crate) fn of_endpoints() -> OfEndpoints {
    use RateLimited as By;
    let mut table = OfEndpoints::new();
    limit::<login::v3::Request>(&mut table, &[By::LoginAddress]);
    limit::<register::v3::Request>(&mut table, &[By::Registration]);
    limit::<check_registration_token_validity::v1::Request>(&mut table, &[By::RegistrationTokenValidity]);
    // The page where a token is tried.
    let fallback_pages = get_uiaa_fallback_page::v3::Request::PATH_BUILDER.all_paths();
    let by_address = Limits { limited: &[By::RegistrationTokenValidity], is_transaction: false };
    table.extend(fallback_pages.map(|path| ((Method::POST, path), by_address)));
    limit::<send_message_event::v3::Request>(&mut table, &[By::Message]);
    limit::<send_state_event::v3::Request>(&mut table, &[By::Message]);
    limit::<redact_event::v3::Request>(&mut table, &[By::Message]);
    // A name or a picture becomes an event in every room of the user.
    limit::<set_profile_field::v3::Request>(&mut table, &[By::Message]);
    limit::<delete_profile_field::v3::Request>(&mut table, &[By::Message]);
    limit::<join_room_by_id::v3::Request>(&mut table, &[By::JoinsLocal, By::JoinsPerRoom]);
    limit::<join_room_by_id_or_alias::v3::Request>(&mut table, &[By::JoinsLocal, By::JoinsPerRoom]);
    limit::<knock_room::v3::Request>(&mut table, &[By::JoinsLocal, By::JoinsPerRoom]);
    limit::<invite_user::v3::Request>(&mut table, &[By::InvitesPerRoom, By::InvitesPerUser, By::InvitesPerIssuer]);
    limit::<create_room::v3::Request>(&mut table, &[By::RoomCreation, By::InvitesPerUser, By::InvitesPerIssuer]);
    limit::<upgrade_room::v3::Request>(&mut table, &[By::RoomCreation]);
    limit::<search_users::v3::Request>(&mut table, &[By::UserDirectory]);
    limit::<set_presence::v3::Request>(&mut table, &[By::Presence]);
    limit::<create_mxc_uri::v1::Request>(&mut table, &[By::MediaCreate]);
    limit::<create_content::v3::Request>(&mut table, &[By::MediaCreate]);
    limit::<create_receipt::v3::Request>(&mut table, &[By::Receipts]);
    limit::<set_read_marker::v3::Request>(&mut table, &[By::Receipts]);
    limit::<create_typing_event::v3::Request>(&mut table, &[By::Receipts]);
    limit::<send_event_to_device::v3::Request>(&mut table, &[By::ToDevice]);
    limit::<report_room::v3::Request>(&mut table, &[By::Reports]);
    limit::<report_content::v3::Request>(&mut table, &[By::Reports]);
    limit::<report_user::v3::Request>(&mut table, &[By::Reports]);
    // Handlers that take what ruma does not read.
    limit::<set_pusher::v3::Request>(&mut table, &[By::Requests]);
    limit::<request_openid_token::v3::Request>(&mut table, &[By::Requests]);
    limit::<change_password::v3::Request>(&mut table, &[By::Requests]);
    limit::<deactivate::v3::Request>(&mut table, &[By::Requests]);
    limit::<add_3pid::v3::Request>(&mut table, &[By::Requests]);
    limit::<request_3pid_management_token_via_email::v3::Request>(&mut table, &[By::Requests]);
    limit::<request_password_change_token_via_email::v3::Request>(&mut table, &[By::Requests]);
    limit::<request_registration_token_via_email::v3::Request>(&mut table, &[By::Requests]);
    limit::<search_events::v3::Request>(&mut table, &[By::Requests]);
    limit::<set_pushrule::v3::Request>(&mut table, &[By::Requests]);
    limit::<forget_room::v3::Request>(&mut table, &[By::Requests]);
    // What asks every room of a user, other servers, or every application service.
    limit::<get_notifications::v3::Request>(&mut table, &[By::Requests]);
    limit::<get_key_changes::v3::Request>(&mut table, &[By::Requests]);
    limit::<get_presence::v3::Request>(&mut table, &[By::Requests]);
    limit::<get_protocols::v3::Request>(&mut table, &[By::Requests]);
    limit::<get_protocol::v3::Request>(&mut table, &[By::Requests]);
    limit::<get_location_for_protocol::v3::Request>(&mut table, &[By::Requests]);
    limit::<get_location_for_room_alias::v3::Request>(&mut table, &[By::Requests]);
    limit::<get_user_for_protocol::v3::Request>(&mut table, &[By::Requests]);
    limit::<get_user_for_user_id::v3::Request>(&mut table, &[By::Requests]);
    limit::<get_login_token::v1::Request>(&mut table, &[By::Requests]);
    // The specification has these unlimited, but they ask other servers.
    limit::<get_keys::v3::Request>(&mut table, &[By::Requests]);
    limit::<claim_keys::v3::Request>(&mut table, &[By::Requests]);
    limit::<upload_signatures::v3::Request>(&mut table, &[By::Requests]);
    // The specification has these unlimited, but they search.
    limit::<get_public_rooms::v3::Request>(&mut table, &[By::Requests]);
    limit::<get_public_rooms_filtered::v3::Request>(&mut table, &[By::Requests]);
    limit::<get_media_preview::v1::Request>(&mut table, &[By::UrlPreviews]);
    limit_deprecated_media(&mut table);
    table.extend(UNKNOWN_TO_RUMA.map(|path| ((Method::GET, path), Limits::of_any())));
    for method in [Method::GET, Method::POST] {
        table.insert((method, validation::PATH), Limits::of_any());
    }
    table
}

/// What costs as much by its old name. Ruma has some of it unlimited, the specification has not.
#[expect(deprecated, reason = "it is served")]
fn limit_deprecated_media(table: &mut OfEndpoints) {
    limit::<get_media_preview_deprecated::v3::Request>(table, &[RateLimited::UrlPreviews]);
    limit::<get_content::v3::Request>(table, &[RateLimited::Requests]);
    limit::<get_content_as_filename::v3::Request>(table, &[RateLimited::Requests]);
}

fn limit<R: Metadata>(table: &mut OfEndpoints, limited: &'static [RateLimited]) {
    let limits = |path: &str| Limits { limited, is_transaction: path.ends_with("/{txn_id}") };
    table.extend(R::PATH_BUILDER.all_paths().map(|path| ((R::METHOD, path), limits(path))));
}

/// A request as its limits see it.
pub(crate) struct Asked<'a> {
    pub user_id: Option<&'a UserId>,
    pub address: Option<ClientAddress>,
    pub request: &'a Request<Bytes>,
    pub path_args: &'a [String],
    pub is_transaction: bool,
}

/// State of a new room.
#[derive(Deserialize)]
struct GivenState {
    #[serde(rename = "type")]
    event_type: String,
    #[serde(default)]
    state_key: String,
    content: Box<RawValue>,
}

#[derive(Deserialize)]
struct Membership {
    membership: MembershipState,
}

impl GivenState {
    /// Whom it invites.
    fn invited(self) -> Option<String> {
        let is_member = self.event_type == "m.room.member";
        let membership = serde_json::from_str::<Membership>(self.content.get()).ok().filter(|_| is_member)?;
        (membership.membership == MembershipState::Invite).then_some(self.state_key)
    }
}

impl Asked<'_> {
    /// For whom a limit counts this request: one digest for each time it counts.
    fn subjects(&self, limited: RateLimited, limit: RateLimit) -> Vec<u64> {
        match limited {
            RateLimited::LoginAddress | RateLimited::Registration | RateLimited::RegistrationTokenValidity => {
                vec![digest(self.address.map(network))]
            }
            RateLimited::Message
            | RateLimited::JoinsLocal
            | RateLimited::RoomCreation
            | RateLimited::UserDirectory
            | RateLimited::Presence
            | RateLimited::MediaCreate
            | RateLimited::Receipts
            | RateLimited::Reports
            | RateLimited::ToDevice
            | RateLimited::UrlPreviews => vec![digest(self.user_id)],
            // A token that nobody asks for is anything: it makes nobody new.
            RateLimited::Requests => match token(self.request).filter(|_| self.user_id.is_some()) {
                Some(token) => vec![digest(token)],
                None => vec![digest(self.address.map(network))],
            },
            RateLimited::JoinsPerRoom | RateLimited::InvitesPerRoom => vec![digest(self.path_args.first())],
            RateLimited::InvitesPerUser => self.invited().iter().map(digest).collect(),
            // A room with more invitations than the burst uses all of it up, or it could never be made.
            RateLimited::InvitesPerIssuer => {
                let times = self.invited().len().min(usize::try_from(limit.burst).unwrap_or(usize::MAX));
                vec![digest(self.user_id); times]
            }
            RateLimited::EmailValidation
            | RateLimited::LoginAccount
            | RateLimited::LoginFailedAttempts
            | RateLimited::RemoteInvites
            | RateLimited::NewServers
            | RateLimited::RemoteQueries
            | RateLimited::RemoteMedia => vec![],
        }
    }

    /// Whom an invitation, or a new room, invites, by their ids or their addresses. What does not parse is refused by
    /// the handler that looks at it: each part is read by itself, for no handler looks at all.
    fn invited(&self) -> BTreeSet<String> {
        let body: HashMap<String, Box<RawValue>> = serde_json::from_slice(self.request.body()).unwrap_or_default();
        let one: Option<String> = part(&body, "user_id");
        let addressed: Option<String> = part(&body, "address");
        let by_address: Vec<Addressed> = part(&body, "invite_3pid");
        let several: Vec<String> = part(&body, "invite");
        let state: Vec<GivenState> = part(&body, "initial_state");
        let in_state = state.into_iter().filter_map(GivenState::invited);
        let by_address = by_address.into_iter().map(|it| it.address);
        let all = one.into_iter().chain(addressed).chain(several).chain(by_address).chain(in_state);
        let mut invited = BTreeSet::new();
        for one in all {
            invited.insert(one);
            // More are too many for every endpoint.
            if invited.len() > INVITED_MAX {
                break;
            }
        }
        invited
    }

    /// What names this request, if asking it again changes nothing: the same id from another device, and so with
    /// another token, is another transaction.
    fn transaction(&self) -> Option<u64> {
        self.is_transaction.then(|| digest((self.path_args, token(self.request))))
    }
}

/// Whom a new room invites by an address.
#[derive(Deserialize)]
struct Addressed {
    address: String,
}

fn part<T: DeserializeOwned + Default>(body: &HashMap<String, Box<RawValue>>, name: &str) -> T {
    body.get(name).and_then(|part| serde_json::from_str(part.get()).ok()).unwrap_or_default()
}

/// Whom one address stands for. An IPv6 client has a whole /64 to itself.
fn network(ClientAddress(address): ClientAddress) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits() >> 64 << 64,
    }
}

fn digest(subject: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    subject.hash(&mut hasher);
    hasher.finish()
}

/// How much of every limit is used up. A host has one.
pub struct RateLimits {
    /// Those that are on.
    limits: BTreeMap<RateLimited, RateLimit>,
    used: Mutex<BTreeMap<RateLimited, Buckets>>,
}

#[derive(Default)]
struct Used {
    bucket: TokenBucket,
    /// The last transaction that was counted.
    transaction: Option<u64>,
}

/// The buckets of one limit, by subject. When there are many, those not used of late are forgotten.
type Buckets = Recent<u64, Used, SUBJECTS_MAX>;

/// What one request took of its limits.
#[must_use]
pub(crate) struct Taken<'a> {
    limits: &'a RateLimits,
    taken: Vec<(RateLimited, u64)>,
}

impl RateLimits {
    pub fn new(limits: &BTreeMap<RateLimited, RateLimit>) -> Self {
        Self { limits: limits.clone(), used: Mutex::default() }
    }

    /// Whether any of these is on that counts for a user: a token counts for itself, whosever it is.
    pub(crate) fn any_is_of_a_user(&self, limited: &[RateLimited]) -> bool {
        limited.iter().any(|limited| *limited != RateLimited::Requests && self.limits.contains_key(limited))
    }

    /// Takes what a request needs of all its limits, or nothing of any.
    ///
    /// # Errors
    /// [`Refusal::LimitExceeded`].
    pub(crate) fn take_for(
        &self,
        asked: &Asked<'_>,
        limited: &[RateLimited],
        now_ms: u64,
    ) -> Result<Taken<'_>, Refusal> {
        let mut taken = Taken { limits: self, taken: Vec::new() };
        for limited in limited {
            let Some(limit) = self.limits.get(limited) else { continue };
            for subject in asked.subjects(*limited, *limit) {
                match self.take_one(*limited, *limit, subject, asked.transaction(), now_ms) {
                    Ok(true) => taken.taken.push((*limited, subject)),
                    Ok(false) => {}
                    Err(refusal) => {
                        taken.give_back();
                        return Err(refusal);
                    }
                }
            }
        }
        Ok(taken)
    }

    /// Takes one of one limit.
    ///
    /// # Errors
    /// [`Refusal::LimitExceeded`].
    pub(crate) fn take(&self, limited: RateLimited, subject: &str, now_ms: u64) -> Result<Taken<'_>, Refusal> {
        self.take_digest(limited, digest(subject), now_ms)
    }

    /// Takes what an invitation needs of its limits, or nothing of any: for a request that is one by what it says.
    ///
    /// # Errors
    /// [`Refusal::LimitExceeded`].
    pub(crate) fn take_for_invitation(
        &self,
        room_id: &RoomId,
        sender: &UserId,
        invited: &UserId,
        now_ms: u64,
    ) -> Result<Taken<'_>, Refusal> {
        let subjects = [
            (RateLimited::InvitesPerRoom, digest(Some(room_id.as_str()))),
            (RateLimited::InvitesPerUser, digest(invited.as_str())),
            (RateLimited::InvitesPerIssuer, digest(Some(sender))),
        ];
        self.take_all(&subjects, now_ms)
    }

    /// The same for a join or a knock.
    ///
    /// # Errors
    /// [`Refusal::LimitExceeded`].
    pub(crate) fn take_for_join(&self, room_id: &RoomId, user_id: &UserId, now_ms: u64) -> Result<Taken<'_>, Refusal> {
        let subjects = [
            (RateLimited::JoinsLocal, digest(Some(user_id))),
            (RateLimited::JoinsPerRoom, digest(Some(room_id.as_str()))),
        ];
        self.take_all(&subjects, now_ms)
    }

    fn take_all(&self, subjects: &[(RateLimited, u64)], now_ms: u64) -> Result<Taken<'_>, Refusal> {
        let mut taken = Taken { limits: self, taken: Vec::new() };
        for (limited, subject) in subjects.iter().copied() {
            match self.take_digest(limited, subject, now_ms) {
                Ok(one) => taken.taken.extend(one.taken),
                Err(refusal) => {
                    taken.give_back();
                    return Err(refusal);
                }
            }
        }
        Ok(taken)
    }

    /// Takes one of one limit that counts for whoever is at an address.
    ///
    /// # Errors
    /// [`Refusal::LimitExceeded`].
    pub(crate) fn take_of_address(
        &self,
        limited: RateLimited,
        address: Option<ClientAddress>,
        now_ms: u64,
    ) -> Result<Taken<'_>, Refusal> {
        self.take_digest(limited, digest(address.map(network)), now_ms)
    }

    fn take_digest(&self, limited: RateLimited, subject: u64, now_ms: u64) -> Result<Taken<'_>, Refusal> {
        let mut taken = Taken { limits: self, taken: Vec::new() };
        if let Some(limit) = self.limits.get(&limited) {
            self.take_one(limited, *limit, subject, None, now_ms)?;
            taken.taken.push((limited, subject));
        }
        Ok(taken)
    }

    /// Whether one was taken: the last transaction may come again for nothing.
    fn take_one(
        &self,
        limited: RateLimited,
        limit: RateLimit,
        subject: u64,
        transaction: Option<u64>,
        now_ms: u64,
    ) -> Result<bool, Refusal> {
        let mut used = self.used();
        let used = used.entry(limited).or_default().of(subject);
        if transaction.is_some() && used.transaction == transaction {
            return Ok(false);
        }
        used.bucket.take(limit, now_ms)?;
        used.transaction = transaction;
        Ok(true)
    }

    fn used(&self) -> MutexGuard<'_, BTreeMap<RateLimited, Buckets>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken<'_> {
    /// It counts, whatever comes.
    pub(crate) fn keep(self) {}

    /// Puts everything back: what it was taken for does not count after all.
    pub(crate) fn give_back(self) {
        self.give_back_where(|_| true);
    }

    /// Puts back what a request that failed like this should not have cost.
    pub(crate) fn settle(self, failure: Option<&Failure>) {
        let Some(failure) = failure else { return };
        self.give_back_where(|limited| match (failure, limited) {
            (Failure::Fault(_), _) | (_, RateLimited::JoinsPerRoom) => true,
            // A name that is taken, or the question how to register at all; not a proof that failed. An address that is
            // not confirmed yet clients ask about all the time.
            (Failure::Refused(_), RateLimited::Registration) => true,
            (Failure::Challenge(challenge), RateLimited::Registration) => {
                challenge.auth_error.as_ref().is_none_or(|error| error.message == uiaa::NOT_CONFIRMED)
            }
            (Failure::Refused(_) | Failure::Challenge(_) | Failure::Absent, _) => false,
        });
    }

    fn give_back_where(self, counts_not: impl Fn(RateLimited) -> bool) {
        let mut used = self.limits.used();
        for (limited, subject) in self.taken {
            let used = used.entry(limited).or_default().of(subject);
            // It was not done: asked again, it is as much work as the first time.
            used.transaction = None;
            if counts_not(limited) {
                used.bucket.give_back();
            }
        }
    }
}

#[cfg(test)]
mod tests;
