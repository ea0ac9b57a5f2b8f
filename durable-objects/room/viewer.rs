//! What one user may see of the room, and how they see an event.
//!
//! Every read path asks here: membership and history visibility decide. Spec: "Room history visibility".

use std::{borrow::Cow, collections::BTreeSet};

use domain::{
    Pdu, Refusal, RoomVersion,
    event::{self, Unsigned},
    visibility,
};
use platform::{
    Fault, Sql,
    planted::{self, Planted},
};
use ruma_common::{OwnedDeviceId, OwnedUserId};
use ruma_events::{
    TimelineEventType,
    room::{history_visibility::HistoryVisibility, member::MembershipState},
};
use serde_json::value::RawValue;

use super::{
    EventFormat,
    bundle::Bundles,
    event_format::Writing,
    omitted_members, retention,
    store::{self, erased::Erased, graph::POSITION_MAX, log::Logged, relations::Visible},
    transactions,
};
use crate::{Cx, Error};

/// One user looking at the room.
pub(super) struct Viewer {
    pub user: OwnedUserId,
    /// The device that asks: it alone sees the transaction ids of what it sent.
    pub device: OwnedDeviceId,
    writing: Writing,
    /// Whose messages the user does not want to see.
    ignored: Vec<OwnedUserId>,
    /// When the user's membership became what; oldest first.
    memberships: Vec<(u64, MembershipState)>,
    /// For one who forgot the room, and to whom it is as to a stranger: the position with which they were out of it.
    forgotten: Option<u64>,
    /// When the room's history visibility became what; oldest first.
    visibilities: Vec<(u64, HistoryVisibility)>,
    /// From where on the user may see ordinary events, or may not; oldest first.
    stretches: Vec<(u64, bool)>,
    /// Whose accounts were erased before the user came.
    erased: Erased,
    /// What was said up to this position is shown to nobody any more: it is too old.
    hidden: u64,
    /// Before this position the room's members were not known here.
    whole_since: u64,
}

/// How far a user's sight of the room's state reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sight {
    /// Joined, or the room is world-readable.
    Now,
    /// Left or banned: the state as it was at this position.
    Until(u64),
}

impl Viewer {
    pub(super) fn load(sql: &dyn Sql, user: OwnedUserId, device: OwnedDeviceId) -> Result<Self, Error> {
        let mut memberships: Vec<(u64, MembershipState)> = Vec::new();
        for (position, text) in store::state::history(sql, "m.room.member", user.as_str(), "$.content.membership")? {
            let membership = text.map_or(MembershipState::Leave, MembershipState::from);
            // A new name changes nothing here.
            if memberships.last().is_none_or(|(_, last)| *last != membership) {
                memberships.push((position, membership));
            }
        }
        let mut forgotten = None;
        if store::members::has_forgotten(sql, user.as_str())? {
            forgotten = memberships.last().map(|(position, _)| *position);
            memberships.clear();
        }
        let field = "$.content.history_visibility";
        let visibilities = store::state::history(sql, "m.room.history_visibility", "", field)?
            .into_iter()
            .map(|(position, text)| (position, text.map_or_else(|| visibility::setting(None), HistoryVisibility::from)))
            .collect();
        let first_joined = memberships.iter().find(|(_, membership)| *membership == MembershipState::Join);
        let erased = store::erased::for_who_came_at(sql, first_joined.map_or(POSITION_MAX, |(position, _)| *position))?;
        let (writing, ignored, stretches) = (Writing::default(), Vec::new(), Vec::new());
        let (hidden, whole_since) = (retention::hidden_up_to(sql)?, omitted_members::whole_since(sql)?);
        let viewer = Self {
            user,
            device,
            writing,
            ignored,
            memberships,
            forgotten,
            visibilities,
            stretches,
            erased,
            hidden,
            whole_since,
        };
        Ok(Self { stretches: viewer.stretches(), ..viewer })
    }

    /// Between two changes of what decides, an ordinary event is visible everywhere or nowhere.
    fn stretches(&self) -> Vec<(u64, bool)> {
        let memberships = self.memberships.iter().map(|(position, _)| *position);
        let visibilities = self.visibilities.iter().map(|(position, _)| *position);
        let changes: BTreeSet<u64> = memberships.chain(visibilities).chain([0]).collect();
        changes.into_iter().map(|position| (position, self.sees_at(position))).collect()
    }

    /// The same viewer, who gets to see events in this form.
    pub(super) fn with_format(self, format: &EventFormat) -> Self {
        Self { writing: Writing::of(format), ..self }
    }

    /// The same viewer, without what these users say: it is not shown, nor counted, nor bundled with what others say.
    pub(super) fn ignoring(self, ignored: Vec<OwnedUserId>) -> Self {
        Self { ignored, ..self }
    }

    /// Whether the user does not want to see the event. Spec: "Ignoring Users", «with the exception of state events».
    pub(super) fn ignores(&self, event: &Logged) -> bool {
        event.pdu.state_key().is_none() && self.ignored.iter().any(|ignored| ignored == event.pdu.sender())
    }

    /// Whether the event is shown redacted, because its sender's account was erased before the user came.
    pub(super) fn is_erased(&self, event: &Logged) -> bool {
        self.erased.has(&event.pdu)
    }

    /// The event as the user may see it.
    pub(super) fn shown<'a>(&self, sql: &dyn Sql, event: &'a Logged) -> Result<Cow<'a, Pdu>, Fault> {
        if !self.is_erased(event) {
            return Ok(Cow::Borrowed(&event.pdu));
        }
        let version = store::meta::text(sql, "version")?.ok_or_else(|| Fault::new("the room has no version"))?;
        let version = RoomVersion::parse(&version).map_err(|refusal| Fault::new(refusal.to_string()))?;
        let redacted = event::redact(&event.pdu, &version, None);
        Ok(Cow::Owned(redacted.map_err(|error| Fault::new(format!("a stored event does not redact: {error}")))?))
    }

    pub(super) fn ignored(&self) -> &[OwnedUserId] {
        &self.ignored
    }

    /// What the user may see, for queries that go through more of the log than is to be shown.
    pub(super) fn visible(&self) -> Result<Visible, Fault> {
        let ends = self.stretches.iter().skip(1).map(|(start, _)| start.saturating_sub(1)).chain([POSITION_MAX]);
        let seen = self.stretches.iter().zip(ends).filter(|((_, sees), _)| *sees);
        let mut stretches: Vec<(u64, u64)> = Vec::new();
        for ((first, _), last) in seen {
            match stretches.last_mut() {
                Some(before) if before.1.saturating_add(1) == *first => before.1 = last,
                _ => stretches.push((*first.max(&store::graph::LOG_START), last)),
            }
        }
        // Of what is hidden state alone is shown, and nothing that is looked for with this is state.
        stretches.retain(|(_, last)| *last > self.hidden);
        stretches.iter_mut().for_each(|(first, _)| *first = self.hidden.saturating_add(1).max(*first));
        let (stretches, ignored) = (serde_json::to_string(&stretches)?, serde_json::to_string(&self.ignored)?);
        Ok(Visible { stretches, ignored })
    }

    /// The same for queries that look at what was said.
    pub(super) fn legible(&self) -> Result<Visible, Fault> {
        let ignored = self.ignored.iter().map(|user| user.as_str());
        let unread: Vec<&str> = ignored.chain(self.erased.users().iter().map(String::as_str)).collect();
        Ok(Visible { ignored: serde_json::to_string(&unread)?, ..self.visible()? })
    }

    pub(super) fn membership_at(&self, position: u64) -> MembershipState {
        latest(&self.memberships, position).unwrap_or(MembershipState::Leave)
    }

    fn visibility_at(&self, position: u64) -> HistoryVisibility {
        latest(&self.visibilities, position).unwrap_or_else(|| visibility::setting(None))
    }

    /// The membership now, with the position that made it; `None` for one who was never in the room.
    pub(super) fn membership(&self) -> Option<(&MembershipState, u64)> {
        self.memberships.last().map(|(position, membership)| (membership, *position))
    }

    /// Where one who forgot the room was out of it.
    pub(super) fn forgotten(&self) -> Option<u64> {
        self.forgotten
    }

    /// Whether the user was joined at `from` and at every moment since.
    pub(super) fn joined_throughout(&self, from: u64) -> bool {
        // Nor does who knew the room without its members know it.
        from >= self.whole_since
            && self.membership_at(from) == MembershipState::Join
            && self
                .memberships
                .iter()
                .filter(|(position, _)| *position > from)
                .all(|(_, membership)| *membership == MembershipState::Join)
    }

    /// Where the user's present time in the room began.
    pub(super) fn joined_at(&self) -> Option<u64> {
        self.memberships.last().filter(|(_, membership)| *membership == MembershipState::Join).map(|(start, _)| *start)
    }

    /// Whether the user was in the room at some time after `position`.
    fn joined_since(&self, position: u64) -> bool {
        match self.last_join() {
            None => false,
            Some(_) => self.left_at().is_none_or(|left| left > position),
        }
    }

    /// The first position from here on at which the user may see an event; between, there is nothing for them.
    pub(super) fn sees_at_or_after(&self, position: u64) -> Option<u64> {
        let ahead = self.stretches.partition_point(|(start, _)| *start <= position);
        // The change that ends their sight they may see: what they saw before it decides, too.
        let before = self.stretches.partition_point(|(start, _)| *start < position);
        let here = [ahead, before].map(|index| index.checked_sub(1).and_then(|index| self.stretches.get(index)));
        if here.iter().flatten().any(|(_, sees)| *sees) {
            return Some(position);
        }
        self.stretches.iter().skip(ahead).find(|(_, sees)| *sees).map(|(start, _)| *start)
    }

    /// The last position up to here at which the user may see an event.
    pub(super) fn sees_at_or_before(&self, position: u64) -> Option<u64> {
        let ahead = self.stretches.partition_point(|(start, _)| *start <= position);
        let mut end = position;
        for (start, sees) in self.stretches.iter().take(ahead).rev() {
            if *sees {
                return Some(end);
            }
            // As above.
            end = *start;
        }
        None
    }

    /// The position up to which what was said is too old for anybody.
    pub(super) fn hidden_up_to(&self) -> u64 {
        self.hidden
    }

    pub(super) fn may_see(&self, event: &Logged) -> bool {
        let is_too_old = event.position <= self.hidden && event.pdu.state_key().is_none();
        !event.withheld && !is_too_old && self.is_visible(event)
    }

    /// Whether the history visibility lets the user see an event, if it can be seen at all.
    pub(super) fn is_visible(&self, event: &Logged) -> bool {
        let at = |position| (self.visibility_at(position), self.membership_at(position));
        let joined_since = self.joined_since(event.position);
        let (before, after) = (at(event.position.saturating_sub(1)), at(event.position));
        if planted::is(Planted::ForgottenVisibility) {
            return true;
        }
        if self.is_about(event) || *event.pdu.event_type() == TimelineEventType::RoomHistoryVisibility {
            visibility::may_see_change(before, after, joined_since)
        } else {
            visibility::may_see(after.0, after.1, joined_since)
        }
    }

    /// Whether the event is the user's own membership.
    pub(super) fn is_about(&self, event: &Logged) -> bool {
        *event.pdu.event_type() == TimelineEventType::RoomMember && event.pdu.state_key() == Some(self.user.as_str())
    }

    /// Where the user's last time in the room ended; `None` for one who is in it, or never was.
    pub(super) fn left_at(&self) -> Option<u64> {
        self.memberships.get(self.last_join()?.saturating_add(1)).map(|(position, _)| *position)
    }

    fn last_join(&self) -> Option<usize> {
        self.memberships.iter().rposition(|(_, membership)| *membership == MembershipState::Join)
    }

    /// Whether the user may see the state as it was at `position`. What changed there and then decides from either
    /// side, as it does for the event that changed it: whoever leaves sees the state they left, whoever comes the one
    /// they came into.
    pub(super) fn may_see_state_at(&self, position: u64) -> bool {
        let next = position.saturating_add(1);
        let comes = self.memberships.binary_search_by_key(&next, |(position, _)| *position).is_ok();
        self.sees_at(position) || self.sees_at(position.saturating_sub(1)) || (comes && self.sees_at(next))
    }

    /// Whether the user may see an ordinary event at `position`.
    fn sees_at(&self, position: u64) -> bool {
        planted::is(Planted::ForgottenVisibility)
            || visibility::may_see(
                self.visibility_at(position),
                self.membership_at(position),
                self.joined_since(position),
            )
    }

    /// How far the user sees the room's state.
    ///
    /// Refused: `Forbidden` for who was never in the room, unless it is world-readable.
    pub(super) fn sight(&self) -> Result<Sight, Refusal> {
        let world_readable = self.visibility_at(u64::MAX) == HistoryVisibility::WorldReadable;
        match (self.membership(), self.left_at()) {
            (Some((MembershipState::Join, _)), _) => Ok(Sight::Now),
            _ if world_readable => Ok(Sight::Now),
            (_, Some(position)) => Ok(Sight::Until(position)),
            (_, None) => Err(Refusal::Forbidden(format!("{} is not in this room", self.user))),
        }
    }

    /// The event, with what `unsigned` tells this user.
    pub(super) fn sees(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        event: &Logged,
        with_room_id: bool,
    ) -> Result<Box<RawValue>, Fault> {
        self.sees_with(sql, cx, event, with_room_id, None)
    }

    /// Events with what is bundled with each.
    pub(super) fn sees_all(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        events: &[&Logged],
        with_room_id: bool,
    ) -> Result<Vec<Box<RawValue>>, Fault> {
        let mut bundles = Bundles::load(sql, cx, self, events, with_room_id)?;
        events.iter().map(|event| self.sees_with(sql, cx, event, with_room_id, bundles.take(event))).collect()
    }

    /// The event with what `unsigned` tells this user, and with what relates to it.
    pub(super) fn sees_with(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        event: &Logged,
        with_room_id: bool,
        relations: Option<Box<RawValue>>,
    ) -> Result<Box<RawValue>, Fault> {
        let mut unsigned = Unsigned { relations, ..self.unsigned(cx, event) };
        if let Some(state_key) = event.pdu.state_key()
            && let Some(replaced) =
                store::state::replaced(sql, &event.pdu.event_type().to_string(), state_key, event.position)?
        {
            // Spec: «and the client has permission to see the previous event». Who may not see it where it happened
            // sees it as part of the state.
            if self.may_see(&replaced) || self.may_see_state_at(event.position.saturating_sub(1)) {
                unsigned.prev_content = Some(self.shown(sql, &replaced)?.content().to_owned());
            }
            unsigned.replaces_state = Some(replaced.pdu.event_id().to_owned());
        }
        if let Some(position) = event.redacted_by
            && let Some(redaction) = store::log::one(sql, position)?
        {
            unsigned.redacted_because = Some(self.sees_redaction(cx, &redaction, with_room_id));
        }
        let shown = self.shown(sql, event)?;
        Ok(self.writing.write(&shown, &unsigned, with_room_id))
    }

    /// The redaction inside the event it redacted: as it stands, whatever befell it in turn. To one who had left by
    /// then it is itself shown redacted: that there was one, not why.
    fn sees_redaction(&self, cx: &Cx<'_>, redaction: &Logged, with_room_id: bool) -> Box<RawValue> {
        let unsigned = self.unsigned(cx, redaction);
        if self.may_see(redaction) {
            event::client_json(&redaction.pdu, &unsigned, with_room_id)
        } else {
            event::redaction_without_reason(&redaction.pdu, &unsigned, with_room_id)
        }
    }

    /// What an event tells this user besides itself, without looking any other event up.
    fn unsigned(&self, cx: &Cx<'_>, event: &Logged) -> Unsigned {
        Unsigned {
            age: Some(signed(cx.now_ms).saturating_sub(event.pdu.origin_server_ts().get().into())),
            transaction_id: event
                .txn
                .as_deref()
                .and_then(|name| transactions::seen_by(name, &self.user, &self.device))
                .map(ToOwned::to_owned),
            membership: Some(self.membership_at(event.position)),
            ..Unsigned::default()
        }
    }
}

fn latest<T: Clone>(history: &[(u64, T)], position: u64) -> Option<T> {
    let later = history.partition_point(|(since, _)| *since <= position);
    history.get(later.checked_sub(1)?).map(|(_, value)| value.clone())
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use domain::power::Preset;
    use ruma_common::user_id;
    use serde_json::{Value, json};

    use crate::{
        room::{Direction, EventFilter, MembershipAction, Messages},
        world::World,
    };

    #[test]
    fn what_one_saw_in_the_state_is_told_when_it_is_replaced() {
        let world = World::new(1);
        let (alice, bob) = (user_id!("@alice:myelin.test"), user_id!("@bob:myelin.test"));
        let room_id = world.creates_room(alice, "12", Preset::PublicChat);
        let sets = |event_type: &str, content: &Value| {
            world.sends(alice, &room_id, event_type, Some(""), content).unwrap();
        };
        sets("m.room.history_visibility", &json!({ "history_visibility": "joined" }));
        sets("m.room.topic", &json!({ "topic": "hidden" }));
        sets("m.room.topic", &json!({ "topic": "found" }));
        world.changes(bob, &room_id, bob, MembershipAction::Join).unwrap();
        sets("m.room.topic", &json!({ "topic": "new" }));
        let call = Messages {
            user: bob.to_owned(),
            device: "ANY".into(),
            ignored: Vec::new(),
            from: None,
            to: None,
            direction: Direction::Backwards,
            filter: EventFilter::default(),
            past_gaps: false,
        };
        let page = world.call(room_id.as_str(), &call).unwrap();
        let events: Vec<Value> = page.chunk.iter().map(|event| serde_json::from_str(event.get()).unwrap()).collect();
        assert_eq!(events[0]["unsigned"]["prev_content"], json!({ "topic": "found" }));
        assert_eq!(events[1]["unsigned"]["prev_content"], Value::Null);
        assert!(!format!("{events:?}").contains("hidden"), "{events:?}");
    }
}
