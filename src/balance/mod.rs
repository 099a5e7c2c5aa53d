//! ● Which endpoint of a pool takes the next request. One policy a file.

/// Endpoints of a pool that may be picked, prepared for every policy when a table is built.
#[derive(Debug, Default)]
pub struct Candidates {
    members: Box<[Member]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Index into the pool's endpoints.
    pub endpoint: u32,
    /// 1..=1000.
    pub weight: u16,
}

/// What a pick may ask of the moment.
pub trait Moment {
    /// May this endpoint take the request: not tried yet, below its limit.
    fn usable(&self, endpoint: u32) -> bool;
    /// Requests in flight at this endpoint.
    fn load(&self, endpoint: u32) -> u32;
    /// A uniformly random number.
    fn random(&mut self) -> u64;
    /// The next position of the round robin.
    fn position(&mut self) -> u64;
}

impl Candidates {
    pub fn new(members: Vec<Member>) -> Self {
        Self { members: members.into() }
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Picks one usable endpoint by `policy`; `None` if none is usable.
    pub fn pick(&self, policy: crate::config::Balance, moment: &mut impl Moment) -> Option<u32> {
        let _ = (policy, moment);
        todo!("balance helper")
    }
}
