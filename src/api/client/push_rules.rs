//! Spec: "Push Rules: API".

use actors::user::{ChangePushRules, GetPushRules};
use bytes::Bytes;
use domain::{
    Refusal,
    push::{Change, Kind, NewRule, shown},
};
use http::{Method, Request, Response, StatusCode};
use ruma_client_api::push::{
    delete_pushrule::v3 as delete, get_pushrule::v3 as one, get_pushrule_actions::v3 as actions,
    get_pushrule_enabled::v3 as enabled, get_pushrules_all::v3 as all, get_pushrules_global_scope::v3 as global,
};
use ruma_common::push::{Action, PushCondition, Ruleset};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;

use crate::{
    Bearer, Context, Failure, Routes, failure,
    router::{kept_json, null_or, query},
};

pub(super) fn routes(routes: &mut Routes) {
    routes.add_carried_json(get_all);
    routes.add_carried_json(get_global);
    routes.add_carried_json(get_rule);
    routes.add_carried_json(get_enabled);
    routes.add_carried_json(get_actions);
    routes.add_carried(remove);
    // Not through ruma's types: they do not tell a missing field from a malformed one.
    routes.add_raw(Method::PUT, "/_matrix/client/v3/pushrules/global/{kind}/{rule_id}", put);
    routes.add_raw(Method::PUT, "/_matrix/client/r0/pushrules/global/{kind}/{rule_id}", put);
    routes.add_raw(Method::PUT, "/_matrix/client/v3/pushrules/global/{kind}/{rule_id}/enabled", set_enabled);
    routes.add_raw(Method::PUT, "/_matrix/client/r0/pushrules/global/{kind}/{rule_id}/enabled", set_enabled);
    routes.add_raw(Method::PUT, "/_matrix/client/v3/pushrules/global/{kind}/{rule_id}/actions", set_actions);
    routes.add_raw(Method::PUT, "/_matrix/client/r0/pushrules/global/{kind}/{rule_id}/actions", set_actions);
}

async fn get_all(cx: &Context, bearer: Bearer, _: all::Request) -> Result<Vec<u8>, Failure> {
    let rules = rules(cx, &bearer).await?;
    Ok(serde_json::to_vec(&json!({ "global": serde_json::to_value(shown(&rules))? }))?)
}

async fn get_global(cx: &Context, bearer: Bearer, _: global::Request) -> Result<Vec<u8>, Failure> {
    Ok(serde_json::to_vec(&shown(&rules(cx, &bearer).await?))?)
}

async fn get_rule(cx: &Context, bearer: Bearer, request: one::Request) -> Result<Vec<u8>, Failure> {
    let (kind, rule_id) = (request.kind.as_str().parse()?, request.rule_id.as_str());
    let rules = rules(cx, &bearer).await?;
    let rule = match kind {
        Kind::Override => rules.override_.get(rule_id).map(serde_json::to_vec),
        Kind::Content => rules.content.get(rule_id).map(serde_json::to_vec),
        Kind::Room => rules.room.get(rule_id).map(serde_json::to_vec),
        Kind::Sender => rules.sender.get(rule_id).map(serde_json::to_vec),
        Kind::Underride => rules.underride.get(rule_id).map(serde_json::to_vec),
    };
    Ok(rule.ok_or_else(no_such_rule)??)
}

async fn get_enabled(cx: &Context, bearer: Bearer, request: enabled::Request) -> Result<Vec<u8>, Failure> {
    let kind: Kind = request.kind.as_str().parse()?;
    let rules = rules(cx, &bearer).await?;
    let rule = rules.get(kind.into(), &request.rule_id).ok_or_else(no_such_rule)?;
    Ok(serde_json::to_vec(&json!({ "enabled": rule.enabled() }))?)
}

async fn get_actions(cx: &Context, bearer: Bearer, request: actions::Request) -> Result<Vec<u8>, Failure> {
    let kind: Kind = request.kind.as_str().parse()?;
    let rules = rules(cx, &bearer).await?;
    let rule = rules.get(kind.into(), &request.rule_id).ok_or_else(no_such_rule)?;
    Ok(serde_json::to_vec(&json!({ "actions": serde_json::to_value(rule.actions())? }))?)
}

async fn remove(cx: &Context, bearer: Bearer, request: delete::Request) -> Result<delete::Response, Failure> {
    let kind = request.kind.as_str().parse()?;
    change(cx, &bearer, Change::Remove { kind, rule_id: request.rule_id }).await?;
    Ok(delete::Response::new())
}

/// A new rule as it is sent. Spec: `PUT /pushrules/global/{kind}/{ruleId}`.
#[derive(Deserialize)]
struct SentRule {
    actions: Option<Vec<Action>>,
    #[serde(default, deserialize_with = "null_or")]
    conditions: Vec<PushCondition>,
    pattern: Option<String>,
}

#[derive(Deserialize)]
struct SentPlace {
    before: Option<String>,
    after: Option<String>,
}

async fn put(
    cx: &Context,
    bearer: Bearer,
    request: Request<Bytes>,
    path_args: Vec<String>,
) -> Result<Response<Bytes>, Failure> {
    let (kind, rule_id) = named(path_args)?;
    let SentRule { actions, conditions, pattern } = body(&request)?;
    let SentPlace { before, after } = query(&request)?;
    let actions = required(actions, "actions")?;
    let rule = NewRule { kind, rule_id, actions, conditions, pattern, before, after };
    change(cx, &bearer, Change::Put(rule)).await
}

async fn set_enabled(
    cx: &Context,
    bearer: Bearer,
    request: Request<Bytes>,
    path_args: Vec<String>,
) -> Result<Response<Bytes>, Failure> {
    #[derive(Deserialize)]
    struct Sent {
        enabled: Option<bool>,
    }
    let (kind, rule_id) = named(path_args)?;
    let enabled = required(body::<Sent>(&request)?.enabled, "enabled")?;
    change(cx, &bearer, Change::Enable { kind, rule_id, enabled }).await
}

async fn set_actions(
    cx: &Context,
    bearer: Bearer,
    request: Request<Bytes>,
    path_args: Vec<String>,
) -> Result<Response<Bytes>, Failure> {
    #[derive(Deserialize)]
    struct Sent {
        actions: Option<Vec<Action>>,
    }
    let (kind, rule_id) = named(path_args)?;
    let actions = required(body::<Sent>(&request)?.actions, "actions")?;
    change(cx, &bearer, Change::SetActions { kind, rule_id, actions }).await
}

fn named(path_args: Vec<String>) -> Result<(Kind, String), Refusal> {
    let [kind, rule_id] = <[String; 2]>::try_from(path_args).unwrap_or_default();
    Ok((kind.parse()?, rule_id))
}

fn body<T: DeserializeOwned>(request: &Request<Bytes>) -> Result<T, Refusal> {
    kept_json(request.body())
}

fn required<T>(field: Option<T>, name: &str) -> Result<T, Refusal> {
    field.ok_or_else(|| Refusal::MissingParam(format!("The body has no `{name}`")))
}

async fn rules(cx: &Context, bearer: &Bearer) -> Result<Ruleset, Failure> {
    bearer.call(cx, &GetPushRules { token_hash: bearer.token_hash.clone() }).await
}

fn no_such_rule() -> Refusal {
    Refusal::NotFound("There is no such push rule".to_owned())
}

async fn change(cx: &Context, bearer: &Bearer, change: Change) -> Result<Response<Bytes>, Failure> {
    bearer.call(cx, &ChangePushRules { token_hash: bearer.token_hash.clone(), change }).await?;
    Ok(failure::json(StatusCode::OK, &json!({})))
}
