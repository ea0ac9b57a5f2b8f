//! What goes to an application service, as its actor's carrier asks for it: in the format of clients, whatever the
//! history visibility. Spec: Application Service API, "Pushing events".

use domain::{
    Appservice, Pdu,
    event::{self, Unsigned},
};
use platform::{ActorKind, Fault, Sql};
use ruma_common::{OwnedEventId, UserId};
use ruma_events::room::member::MembershipState;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    Direction, Room,
    append::{membership_of, room_id, stripped_state},
    appservices::Interest,
    ephemeral::receipts_between,
    get_outgoing::{PAGE_BYTES_MAX, SCAN_MAX},
    retention,
    sent_members::is_member,
    store::{self, log::Logged},
    transactions,
};
use crate::{Call, Cx, Error};

/// Events of the room that are of interest to an application service.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GetForAppservice {
    /// The id of its registration.
    pub appservice: String,
    pub wanted: WantedEvents,
}

/// Which of them.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WantedEvents {
    /// Those of a part of the log, and the receipts that moved there.
    Between { after: u64, up_to: u64, limit: u64 },
    /// These, which were sent before.
    Named(Vec<OwnedEventId>),
}

/// Some of them, in their order.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct ForAppservice {
    /// Up to where these are all.
    pub up_to: u64,
    pub event_ids: Vec<OwnedEventId>,
    pub events: Vec<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ephemeral: Vec<Box<RawValue>>,
}

impl Call for GetForAppservice {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "get_for_appservice";
    type Reply = ForAppservice;
}

impl Room {
    pub(super) fn get_for_appservice(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        call: GetForAppservice,
    ) -> Result<ForAppservice, Error> {
        // A registration that was taken back is interested in nothing.
        let Some(appservice) = cx.settings.config.appservice(&call.appservice) else {
            let up_to = if let WantedEvents::Between { up_to, .. } = call.wanted { up_to } else { 0 };
            return Ok(ForAppservice { up_to, ..ForAppservice::default() });
        };
        match call.wanted {
            WantedEvents::Named(event_ids) => {
                let mut page = ForAppservice::default();
                for event_id in event_ids {
                    if let Some(event) = store::log::by_id(sql, event_id.as_str())? {
                        page.events.push(shown(sql, cx, appservice, &event)?);
                        page.event_ids.push(event_id);
                    }
                }
                Ok(page)
            }
            WantedEvents::Between { after, up_to, limit } => {
                self.page_between(sql, cx, appservice, (after, up_to, limit))
            }
        }
    }

    fn page_between(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        appservice: &Appservice,
        (after, up_to, limit): (u64, u64, u64),
    ) -> Result<ForAppservice, Error> {
        let interest = self.interest_of(sql, appservice)?;
        let hidden = retention::hidden_up_to(sql)?;
        let mut page = ForAppservice { up_to: after, ..ForAppservice::default() };
        let mut bytes = 0_usize;
        let scanned = store::log::positions(sql, (after, up_to), Direction::Forwards, SCAN_MAX)?;
        let mut is_all = (scanned.len() as u64) < SCAN_MAX;
        for event in store::log::each(&scanned, |slice| store::log::at(sql, slice)) {
            let event = event?;
            let is_past = event.position <= hidden && event.pdu.state_key().is_none();
            let is_history = event.txn.as_deref() == Some(transactions::HISTORY);
            if !is_past && !is_history && is_of_interest(&interest, appservice, &event) {
                if page.events.len() as u64 >= limit || bytes > PAGE_BYTES_MAX {
                    is_all = false;
                    break;
                }
                let shown = shown(sql, cx, appservice, &event)?;
                bytes = bytes.saturating_add(shown.get().len());
                page.events.push(shown);
                page.event_ids.push(event.pdu.event_id().to_owned());
            }
            page.up_to = event.position;
        }
        if is_all {
            page.up_to = up_to;
        }
        if appservice.receives_ephemeral {
            // «Private read receipts MUST only be sent for users matching one of the application service's namespaces.»
            page.ephemeral = receipts_between(sql, &room_id(cx)?, (after, page.up_to), |receipt| {
                let is_its_own = || <&UserId>::try_from(&*receipt.user_id).is_ok_and(|user| appservice.has_user(user));
                interest.is_in_all(receipt.position) && (receipt.kind == "m.read" || is_its_own())
            })?;
        }
        Ok(page)
    }
}

fn is_of_interest(interest: &Interest, appservice: &Appservice, event: &Logged) -> bool {
    let is_target = || {
        let target = event.pdu.state_key().filter(|_| is_member(event));
        target.and_then(|user| <&UserId>::try_from(user).ok()).is_some_and(|user| appservice.has_user(user))
    };
    interest.is_in_all(event.position) || appservice.has_user(event.pdu.sender()) || is_target()
}

/// The event as clients see it.
fn shown(sql: &dyn Sql, cx: &Cx<'_>, appservice: &Appservice, event: &Logged) -> Result<Box<RawValue>, Fault> {
    let mut unsigned = unsigned(cx, &event.pdu);
    if let Some(state_key) = event.pdu.state_key()
        && let Some(replaced) =
            store::state::replaced(sql, &event.pdu.event_type().to_string(), state_key, event.position)?
    {
        unsigned.prev_content = Some(replaced.pdu.content().to_owned());
        unsigned.replaces_state = Some(replaced.pdu.event_id().to_owned());
    }
    if let Some(position) = event.redacted_by
        && let Some(redaction) = store::log::one(sql, position)?
    {
        let because = event::client_json(&redaction.pdu, &self::unsigned(cx, &redaction.pdu), true);
        unsigned.redacted_because = Some(because);
    }
    if is_member(event)
        && membership_of(&event.pdu)? == MembershipState::Invite
        && let Some(Ok(invited)) = event.pdu.state_key().map(<&UserId>::try_from)
        && appservice.has_user(invited)
    {
        unsigned.invite_room_state = stripped_state(sql, &event.pdu)?;
    }
    Ok(event::client_json(&event.pdu, &unsigned, true))
}

fn unsigned(cx: &Cx<'_>, pdu: &Pdu) -> Unsigned {
    let age = cx.now_ms.cast_signed().saturating_sub(u64::from(pdu.origin_server_ts().get()).cast_signed());
    Unsigned { age: Some(age), ..Unsigned::default() }
}
