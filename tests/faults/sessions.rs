//! Sessions on a pool that is lost.

use crate::rig::websocket::State;
use crate::rig::{At, Fault, Pool, wait};
use crate::trial::{SOME, Trial};

#[test]
fn websockets_to_a_black_holed_pool_are_all_told_to_come_back() {
    let at_once = "    failover: { sessions: { spread: 0s } }\n    pools:\n";
    let mut trial = Trial::with(|config| config.replace("    pools:\n", at_once));
    let sockets = trial.rig.websockets(200);
    trial.others = 200;
    assert_eq!(sockets.open_now(), 200);
    trial.strike(Fault::Drop, At::Hot);
    trial.wait_serving(Pool::Standby);
    wait("none hangs", || (sockets.open_now() == 0).then_some(()));
    let states = sockets.states();
    let told = states.iter().filter(|state| matches!(state, State::Told { code: 1012, .. }));
    assert_eq!(told.count(), 200, "{states:?}");
    trial.carry_on(SOME);
    let ended = trial.end();
    assert_eq!(ended.moves(), ["standby"]);
    assert_eq!(ended.all().lost_get, 0, "{:?}", ended.all().why);
    assert_eq!(ended.grown("standfast_sessions_ended_total"), 200);
}
