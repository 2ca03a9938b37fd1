//! Authentication of the scripted registry: Basic, and tokens from its own `/token`.

use super::Seen;
use super::wire::Reply;
use base64::Engine as _;
use std::collections::HashMap;

/// How the token server behaves.
#[derive(Clone, Debug, Default)]
pub(crate) struct TokenAuth {
    /// The user and password that it wants; none: anyone gets a token.
    pub(crate) user: Option<(String, String)>,
    /// The identity token that it changes for access tokens.
    pub(crate) identity: Option<String>,
    /// Whether it lacks the OAuth 2 POST.
    pub(crate) get_only: bool,
    /// The lifetime it announces. Tokens do not expire by time: see `expire_tokens` and `uses`.
    pub(crate) expires_in: Option<u64>,
    /// How many requests each token is good for.
    pub(crate) uses: Option<usize>,
    /// The realm that the registry names instead of its own `/token`.
    pub(crate) realm: Option<String>,
    /// The status that an expired token gets (401 when none): Amazon's public registry says 400.
    pub(crate) expired_status: Option<u16>,
    /// The field's name: `token` when none.
    pub(crate) field: Option<String>,
}

#[derive(Default)]
pub(super) struct Auth {
    basic: Option<String>,
    /// The status of unauthorised requests for anything but `/v2/`, in place of 401.
    hidden: Option<u16>,
    tokens: Option<TokenAuth>,
    /// Tokens given out: the scope they are good for and the uses left.
    valid: HashMap<String, (String, usize)>,
    given: usize,
}

impl Auth {
    pub(super) fn require_basic(&mut self, username: &str, password: &str) {
        self.basic = Some(basic(username, password));
    }

    pub(super) fn hide_challenge(&mut self, status: u16) {
        self.hidden = Some(status);
    }

    pub(super) fn require_tokens(&mut self, tokens: TokenAuth) {
        self.tokens = Some(tokens);
    }

    pub(super) fn expire(&mut self) {
        self.valid.clear();
    }

    /// The refusal that a request to the registry gets, if it gets one.
    pub(super) fn check(&mut self, seen: &Seen, own_url: &str) -> Option<Reply> {
        let shown = seen.header("authorization").unwrap_or_default();
        if let Some(expected) = &self.basic {
            let refusal = || match self.hidden {
                Some(status) if seen.path != "/v2/" => Reply::status(status),
                _ => refuse(401, "Basic realm=\"scripted\"".to_owned()),
            };
            return (shown != expected).then(refusal);
        }
        let tokens = self.tokens.as_ref()?;
        let name = seen.path.strip_prefix("/v2/").unwrap_or_default();
        let name = name.split("/manifests/").next()?.split("/blobs/").next()?;
        let scope = format!("repository:{name}:pull");
        let token = shown.strip_prefix("Bearer ").unwrap_or_default();
        if let Some((good_for, uses)) = self.valid.get_mut(token)
            && good_for.split(' ').any(|one| one == scope)
            && *uses > 0
        {
            *uses -= 1;
            return None;
        }
        let own_realm = || format!("{own_url}/token");
        let realm = tokens.realm.clone().unwrap_or_else(own_realm);
        let challenge = format!(r#"Bearer realm="{realm}",service="scripted",scope="{scope}""#);
        let status = tokens.expired_status.filter(|_| !token.is_empty()).unwrap_or(401);
        Some(refuse(status, challenge))
    }

    /// What the token server answers.
    pub(super) fn token(&mut self, seen: &Seen) -> Reply {
        let Some(tokens) = self.tokens.clone() else { return Reply::status(404) };
        let query = match seen.method.as_str() {
            "POST" if tokens.get_only => return Reply::status(405),
            "POST" => seen.body.clone(),
            _ => seen.path.split_once('?').map(|(_, query)| query.to_owned()).unwrap_or_default(),
        };
        let mut scopes = Vec::new();
        let mut refresh = None;
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "scope" => scopes.push(value.into_owned()),
                "refresh_token" => refresh = Some(value.into_owned()),
                _ => {}
            }
        }
        let shown = seen.header("authorization").unwrap_or_default();
        let by_password = tokens.user.as_ref().is_none_or(|(name, password)| shown == basic(name, password));
        let by_identity = tokens.identity.is_some()
            && (refresh == tokens.identity
                || tokens.identity.as_deref().is_some_and(|identity| shown == basic("<token>", identity)));
        if !(by_identity || (tokens.identity.is_none() && by_password)) {
            return Reply::json(401, r#"{"details":"incorrect username or password"}"#.into());
        }
        self.given += 1;
        let token = format!("token-{}", self.given);
        self.valid.insert(token.clone(), (scopes.join(" "), tokens.uses.unwrap_or(usize::MAX)));
        let mut answer = serde_json::Map::new();
        answer.insert(tokens.field.unwrap_or_else(|| "token".into()), token.into());
        if let Some(seconds) = tokens.expires_in {
            answer.insert("expires_in".into(), seconds.into());
        }
        Reply::json(200, serde_json::Value::from(answer).to_string())
    }
}

fn refuse(status: u16, challenge: String) -> Reply {
    let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
    let mut reply = Reply::json(status, body.into());
    reply.set("WWW-Authenticate", &challenge);
    reply
}

fn basic(username: &str, password: &str) -> String {
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"));
    format!("Basic {encoded}")
}
