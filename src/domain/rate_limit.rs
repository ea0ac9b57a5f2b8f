//! What is limited, and how much.

/// A token bucket's size and flow, as Synapse's `rc_*`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateLimit {
    /// Requests a second in the long run; 0 switches the limit off.
    pub per_second: f64,
    /// Requests at once.
    pub burst: u32,
}

impl RateLimit {
    /// Whether there is a limit at all.
    pub fn is_on(&self) -> bool {
        self.per_second > 0.0
    }
}

/// What is limited. Each has a key of the configuration, and whom it counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RateLimited {
    /// Attempts to log in, per address.
    LoginAddress,
    /// Logins, per account.
    LoginAccount,
    /// Passwords that were wrong, per account.
    LoginFailedAttempts,
    /// Accounts made, and proofs that failed, per address.
    Registration,
    /// Registration tokens asked about, and stages completed on a page, per address.
    RegistrationTokenValidity,
    /// Emails that prove an address, per client's address and per email address.
    EmailValidation,
    /// Events sent, and profiles changed, per user.
    Message,
    /// Joins and knocks, per user.
    JoinsLocal,
    /// Joins that happened, per room.
    JoinsPerRoom,
    /// Invitations, per room.
    InvitesPerRoom,
    /// Invitations, also from other servers, per user who is invited.
    InvitesPerUser,
    /// Invitations, per user who invites.
    InvitesPerIssuer,
    /// Invitations that another server sends, per server.
    RemoteInvites,
    /// Rooms created, per user.
    RoomCreation,
    /// Searches of the user directory, per user.
    UserDirectory,
    /// Changes of presence, per user.
    Presence,
    /// Questions to other servers that anybody may have them asked, per address.
    RemoteQueries,
    /// Media created and uploaded, per user.
    MediaCreate,
    /// Receipts, read markers and notices of typing, per user: each is told to a whole room.
    Receipts,
    /// Reports to the administrators, per user.
    Reports,
    /// Whatever else the specification has limited, per access token, or per address where there is none.
    Requests,
    /// Messages to devices, per user: requests, however many each is for.
    ToDevice,
    /// Servers that messages to devices are for and of which nothing is known here, per user.
    NewServers,
    /// Media fetched from other servers, per user, or per address for who did not say who they are.
    RemoteMedia,
    /// URLs asked about, per user.
    UrlPreviews,
}

impl RateLimited {
    /// All there is.
    pub const ALL: [Self; 25] = [
        Self::LoginAddress,
        Self::LoginAccount,
        Self::LoginFailedAttempts,
        Self::Registration,
        Self::RegistrationTokenValidity,
        Self::EmailValidation,
        Self::Message,
        Self::JoinsLocal,
        Self::JoinsPerRoom,
        Self::InvitesPerRoom,
        Self::InvitesPerUser,
        Self::InvitesPerIssuer,
        Self::RemoteInvites,
        Self::RoomCreation,
        Self::UserDirectory,
        Self::Presence,
        Self::RemoteQueries,
        Self::MediaCreate,
        Self::Receipts,
        Self::Reports,
        Self::Requests,
        Self::ToDevice,
        Self::NewServers,
        Self::RemoteMedia,
        Self::UrlPreviews,
    ];

    /// The key of the configuration that sets the limit.
    pub const fn key(self) -> &'static str {
        match self {
            Self::LoginAddress => "RC_LOGIN_ADDRESS",
            Self::LoginAccount => "RC_LOGIN_ACCOUNT",
            Self::LoginFailedAttempts => "RC_LOGIN_FAILED_ATTEMPTS",
            Self::Registration => "RC_REGISTRATION",
            Self::RegistrationTokenValidity => "RC_REGISTRATION_TOKEN_VALIDITY",
            Self::EmailValidation => "RC_EMAIL_VALIDATION",
            Self::Message => "RC_MESSAGE",
            Self::JoinsLocal => "RC_JOINS_LOCAL",
            Self::JoinsPerRoom => "RC_JOINS_PER_ROOM",
            Self::InvitesPerRoom => "RC_INVITES_PER_ROOM",
            Self::InvitesPerUser => "RC_INVITES_PER_USER",
            Self::InvitesPerIssuer => "RC_INVITES_PER_ISSUER",
            Self::RemoteInvites => "RC_REMOTE_INVITES",
            Self::RoomCreation => "RC_ROOM_CREATION",
            Self::UserDirectory => "RC_USER_DIRECTORY",
            Self::Presence => "RC_PRESENCE",
            Self::RemoteQueries => "RC_REMOTE_QUERIES",
            Self::MediaCreate => "RC_MEDIA_CREATE",
            Self::Receipts => "RC_RECEIPTS",
            Self::Reports => "RC_REPORTS",
            Self::Requests => "RC_REQUESTS",
            Self::ToDevice => "RC_TO_DEVICE",
            Self::NewServers => "RC_NEW_SERVERS",
            Self::RemoteMedia => "RC_REMOTE_MEDIA",
            Self::UrlPreviews => "RC_URL_PREVIEWS",
        }
    }

    /// The key that sets this limit and its kin, where a limit's own key is not given.
    pub const fn group_key(self) -> Option<&'static str> {
        match self {
            Self::LoginAddress | Self::LoginAccount | Self::LoginFailedAttempts => Some("RC_LOGIN"),
            Self::JoinsLocal | Self::JoinsPerRoom => Some("RC_JOINS"),
            Self::InvitesPerRoom | Self::InvitesPerUser | Self::InvitesPerIssuer => Some("RC_INVITES"),
            Self::Registration
            | Self::RegistrationTokenValidity
            | Self::EmailValidation
            | Self::Message
            | Self::RemoteInvites
            | Self::RoomCreation
            | Self::UserDirectory
            | Self::Presence
            | Self::RemoteQueries
            | Self::MediaCreate
            | Self::Receipts
            | Self::Reports
            | Self::Requests
            | Self::ToDevice
            | Self::NewServers
            | Self::RemoteMedia
            | Self::UrlPreviews => None,
        }
    }
}
