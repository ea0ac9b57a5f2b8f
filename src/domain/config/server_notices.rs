use ruma_common::{OwnedUserId, ServerName};

use super::{ConfigError, Values};

/// Who tells users what the operator has to say, and where. Spec: "Server Notices".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerNotices {
    /// Whose name the notices bear; nobody's account.
    pub sender: OwnedUserId,
    /// What they are called.
    pub display_name: String,
    /// What the rooms are called.
    pub room_name: String,
}

impl Values {
    pub(super) fn server_notices(&self, server_name: &ServerName) -> Result<Option<ServerNotices>, ConfigError> {
        let text = |text: &str| (!text.is_empty() && text.len() <= 255).then(|| text.to_owned());
        let display_name = self.required("SERVER_NOTICES_DISPLAY_NAME", text)?;
        let room_name = self.required("SERVER_NOTICES_ROOM_NAME", text)?;
        let sender = self.parsed("SERVER_NOTICES_LOCALPART", |localpart| {
            let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._=-/+".contains(&byte);
            let is_name = !localpart.is_empty() && localpart.bytes().all(allowed);
            OwnedUserId::try_from(format!("@{localpart}:{server_name}")).ok().filter(|_| is_name)
        })?;
        Ok(sender.map(|sender| ServerNotices { sender, display_name, room_name }))
    }
}
