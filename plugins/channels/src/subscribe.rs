//! `subscribe` and `unsubscribe`: into a channel, and out of it.

use plugsocket_plugin::prelude::*;
use serde::Deserialize;

use crate::auth::Secret;
use crate::presence::{self, Member};

/// Longest name of a channel, in bytes: Pusher's limit, and the group's name is 8 longer.
const NAME_BYTES_MAX: usize = 164;
/// Most channels one connection may be in.
const CHANNELS_MAX: usize = 100;
/// Longest `channel_data`, in bytes.
const DATA_BYTES_MAX: usize = 4096;
/// Longest user id in it, in bytes.
const USER_BYTES_MAX: usize = 200;

#[derive(Deserialize)]
struct Request {
    channel: String,
    auth: Option<String>,
    channel_data: Option<String>,
}

/// Where the channels of a connection are stored.
fn channels_key(connection: &str) -> String {
    format!("channels:{connection}")
}

/// The channels a connection is in.
pub fn channels_of(context: &Context, connection: &str) -> Result<Vec<String>, ContextError> {
    Ok(context.store().get_json(&channels_key(connection))?.unwrap_or_default())
}

/// After its last channel.
pub fn forget(context: &Context, connection: &str) -> Result<(), ContextError> {
    context.store().delete(&channels_key(connection)).map(drop)
}

fn check_name(channel: &str) -> Result<(), Failure> {
    let wrong = |character: char| character == ':' || character.is_whitespace() || character.is_control();
    if (1..=NAME_BYTES_MAX).contains(&channel.len()) && !channel.contains(wrong) {
        return Ok(());
    }
    // Without `:` nothing that is signed for one channel reads as something else for another.
    Err(Failure::reject("bad_channel", format!("a channel's name has 1 to {NAME_BYTES_MAX} bytes, no spaces, control characters or `:`")))
}

fn member_of(data: Option<&str>) -> Result<Member, Failure> {
    let wrong = |why: String| Failure::reject("bad_data", format!("`channel_data` {why}; the application makes it"));
    let data = data.ok_or_else(|| wrong("is missing, and a presence channel needs it".to_owned()))?;
    if data.len() > DATA_BYTES_MAX {
        return Err(wrong(format!("has {} bytes, at most {DATA_BYTES_MAX} are allowed", data.len())));
    }
    let member: Member = serde_json::from_str(data).map_err(|error| wrong(format!("does not fit: {error}")))?;
    match member.user_id.to_string().len() {
        1..=USER_BYTES_MAX => Ok(member),
        bytes => Err(wrong(format!("has a `user_id` of {bytes} bytes, 1 to {USER_BYTES_MAX} are allowed"))),
    }
}

/// Lets the sender into a channel: into a private or presence one only with what the application has signed for it.
pub struct Subscribe(Secret);

impl Subscribe {
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        Secret::new(config).map(Self)
    }
}

impl Action for Subscribe {
    fn handle(&self, message: &Message, context: &Context) -> Outcome {
        let Request { channel, auth, channel_data } = message.data()?;
        check_name(&channel)?;
        let sender = message.connection_id();
        let presence = channel.starts_with("presence-");
        let data = channel_data.as_deref().filter(|_| presence);
        if presence || channel.starts_with("private-") {
            // When the server took it, so that no time in the queue counts.
            self.0.check(auth.as_deref(), sender, &channel, data, message.meta().time / 1000)?;
        }
        let member = presence.then(|| member_of(data)).transpose()?;
        let mut channels = channels_of(context, sender)?;
        if !channels.contains(&channel) {
            if channels.len() >= CHANNELS_MAX {
                return Err(Failure::reject(
                    "too_many_channels",
                    format!("unsubscribe from one first: {CHANNELS_MAX} at once is the limit"),
                ));
            }
            channels.push(channel.clone());
            context.store().set_json(&channels_key(sender), &channels)?;
        }
        context.join(&presence::group(&channel), sender)?;
        if let Some(member) = &member {
            presence::enter(context, &channel, sender, member)?;
        }
        if context.connection(sender)?.is_none() {
            // It went while this waited in the queue. Its goodbye may have been before it came in, and there is no other.
            presence::depart(context, &channel, sender)?;
            channels.retain(|known| *known != channel);
            if channels.is_empty() {
                forget(context, sender)?;
            } else {
                context.store().set_json(&channels_key(sender), &channels)?;
            }
            return Ok(Reply::none());
        }
        let Some(member) = member else { return Ok(Reply::json(json!({ "channel": channel }))) };
        let members = presence::members(context, &channel, sender, &member)?;
        Ok(Reply::json(json!({ "channel": channel, "members": members })))
    }
}

/// Takes the sender out of a channel; nothing happens when it is not in.
pub struct Unsubscribe;

impl Unsubscribe {
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        Secret::new(config).map(|_| Self)
    }
}

impl Action for Unsubscribe {
    fn handle(&self, message: &Message, context: &Context) -> Outcome {
        let Request { channel, .. } = message.data()?;
        check_name(&channel)?;
        let sender = message.connection_id();
        let mut channels = channels_of(context, sender)?;
        if let Some(position) = channels.iter().position(|known| *known == channel) {
            context.leave(&presence::group(&channel), sender)?;
            presence::depart(context, &channel, sender)?;
            // Last, so that an attempt that failed before is made again in full.
            channels.remove(position);
            context.store().set_json(&channels_key(sender), &channels)?;
        }
        Ok(Reply::json(json!({ "channel": channel })))
    }
}
