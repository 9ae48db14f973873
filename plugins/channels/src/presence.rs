//! Who is in a presence channel: one member for each user, however many of its connections are in.

use plugsocket_plugin::prelude::*;
use serde::{Deserialize, Serialize};

/// Most connections that a list of members is made of; each costs a look into the store.
const LISTED_MAX: usize = 100;
/// Most connections of one user that are remembered for a channel.
const USER_CONNECTIONS_MAX: usize = 100;
/// How often a change is tried when other connections of the same user come and go at that moment.
const CHANGE_TRIES: usize = 20;

/// What the application signed of a user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Member {
    pub user_id: Id,
    #[serde(default)]
    pub user_info: Value,
}

/// The group of everybody in a channel: what the application broadcasts to.
pub fn group(channel: &str) -> String {
    format!("channel:{channel}")
}

fn member_key(channel: &str, connection: &str) -> String {
    format!("member:{channel}:{connection}")
}

/// Notes the member behind a connection, and tells the others when it is the first of its user.
pub fn enter(context: &Context, channel: &str, connection: &str, member: &Member) -> Result<(), ContextError> {
    let key = member_key(channel, connection);
    let known = context.store().get_json::<Member>(&key)?;
    if known.as_ref().is_some_and(|known| known.user_id != member.user_id) {
        depart(context, channel, connection)?; // The same connection comes again as somebody else.
    }
    let others = change(context, channel, &member.user_id, connection, true)?;
    if !others && known.is_none_or(|known| known.user_id != member.user_id) {
        tell(context, "joining", channel, connection, member)?;
    }
    // Last, so that an attempt that failed before tells the others.
    context.store().set_json(&key, member)
}

/// Forgets the member behind a connection, and tells the others when it was the last of its user. Nothing happens when there is none.
pub fn depart(context: &Context, channel: &str, connection: &str) -> Result<(), ContextError> {
    let key = member_key(channel, connection);
    if let Some(member) = context.store().get_json::<Member>(&key)? {
        if !change(context, channel, &member.user_id, connection, false)? {
            tell(context, "leaving", channel, connection, &member)?;
        }
        context.store().delete(&key)?;
    }
    Ok(())
}

/// The members of a channel, `own` first, each once.
pub fn members(context: &Context, channel: &str, connection: &str, own: &Member) -> Result<Vec<Member>, ContextError> {
    let mut members = vec![own.clone()];
    for info in context.members(&group(channel))?.into_iter().filter(|info| info.connection_id != connection).take(LISTED_MAX) {
        let member = context.store().get_json::<Member>(&member_key(channel, &info.connection_id))?;
        if let Some(member) = member.filter(|member| members.iter().all(|known| known.user_id != member.user_id)) {
            members.push(member);
        }
    }
    Ok(members)
}

fn tell(context: &Context, action: &str, channel: &str, connection: &str, member: &Member) -> Result<(), ContextError> {
    let data = json!({ "channel": channel, "user_id": member.user_id, "user_info": member.user_info });
    context.to_group(group(channel)).except(connection).send(action, &data)
}

/// Adds a connection to those of its user in the channel, or takes it out; whether there are others. Those that are gone are forgotten.
fn change(context: &Context, channel: &str, user: &Id, connection: &str, add: bool) -> Result<bool, ContextError> {
    let key = format!("user:{channel}:{user}");
    // Connections of one user have lanes of their own, so another one may write this key meanwhile.
    for _ in 0..CHANGE_TRIES {
        let old = context.store().get(&key)?;
        let listed: Vec<String> = old.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let mut here = Vec::new();
        for other in listed.into_iter().filter(|other| other != connection) {
            if context.connection(&other)?.is_some() {
                here.push(other);
            }
        }
        let others = !here.is_empty();
        if add && here.len() < USER_CONNECTIONS_MAX {
            here.push(connection.to_owned());
        }
        if context.store().compare_and_set(&key, old.as_deref(), &json!(here).to_string())? {
            return Ok(others);
        }
    }
    Err(ContextError::Failed(format!("user `{user}` comes and goes in `{channel}` too fast")))
}
