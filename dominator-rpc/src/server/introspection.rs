use std::collections::BTreeMap;

use async_trait::async_trait;
use dominator_core::auth::{Access, Method, Rule};
use tonic::{Request, Response, Status};

use crate::v1;
use crate::v1::introspection_server::Introspection;

/// What the server offers, served.
pub(super) struct IntrospectionService {
    pub(super) version: String,
    pub(super) offered: BTreeMap<Method, Rule>,
}

#[async_trait]
impl Introspection for IntrospectionService {
    async fn list_methods(
        &self,
        _request: Request<v1::Empty>,
    ) -> Result<Response<v1::ListMethodsReply>, Status> {
        let info = |(method, rule): (&Method, &Rule)| v1::MethodInfo {
            name: method.to_string(),
            public: rule.access != Access::Listed,
        };
        let methods = self.offered.iter().map(info).collect();
        Ok(Response::new(v1::ListMethodsReply { version: self.version.clone(), methods }))
    }
}
