//! ● Which endpoint of a pool takes the next request. One policy a file.
//!
//! Work for one pick is bounded: a few draws, and where none of them was usable one walk over the
//! members. Members appear in proportion to their weights in one sequence, made when a table is
//! built, that all policies draw from.

mod least_requests;
mod random;
mod round_robin;
mod schedule;

/// Draws before a walk over all members. Candidates are not known to be down, so most are usable.
const DRAWS: usize = 8;

/// Endpoints of a pool that may be picked, prepared for every policy when a table is built.
#[derive(Debug, Default)]
pub struct Candidates {
    members: Box<[Member]>,
    /// Indexes of members, each as often as its weight says; none where all weights are equal.
    schedule: Option<Box<[u32]>>,
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
        Self { schedule: schedule::of(&members), members: members.into() }
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Picks one usable endpoint by `policy`; `None` if none is usable.
    pub fn pick(&self, policy: crate::config::Balance, moment: &mut impl Moment) -> Option<u32> {
        use crate::config::Balance;
        if self.is_empty() {
            return None;
        }
        match policy {
            Balance::RoundRobin => round_robin::pick(self, moment),
            Balance::LeastRequests => least_requests::pick(self, moment),
            Balance::Random => random::pick(self, moment).map(|member| member.endpoint),
        }
    }

    /// Places in the sequence; never 0 where there is a member.
    fn places(&self) -> usize {
        self.schedule.as_ref().map_or(self.members.len(), |schedule| schedule.len())
    }

    /// The index of the member at a place of the sequence.
    fn at(&self, place: usize) -> usize {
        self.schedule.as_ref().map_or(place, |schedule| schedule[place] as usize)
    }

    /// The index of a random member, in proportion to the weights.
    fn draw(&self, moment: &mut impl Moment) -> usize {
        self.at(scale(moment.random(), self.places()))
    }

    /// The first usable member from the one with index `start` on, other than `except`.
    fn walk(&self, start: usize, except: Option<u32>, moment: &impl Moment) -> Option<Member> {
        let (before, from) = self.members.split_at(start);
        let mut all = from.iter().chain(before);
        all.find(|member| except != Some(member.endpoint) && moment.usable(member.endpoint))
            .copied()
    }
}

/// A uniformly random number → one in `0..count`.
fn scale(random: u64, count: usize) -> usize {
    ((u128::from(random) * count as u128) >> 64) as usize
}

#[cfg(test)]
mod tests;
