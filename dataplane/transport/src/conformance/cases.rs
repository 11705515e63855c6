//! The list of cases, one file per kind of promise.

mod connection;
mod durability;
mod flow;
mod publishing;
mod queues;
mod settling;

use super::{Failure, Harness, Verdict};

/// One promise, tried.
pub struct Case<H> {
    /// The promise in words.
    pub name: &'static str,
    /// Tries it.
    pub run: fn(&mut H) -> Result<Verdict, Failure>,
}

/// Hands the list of cases to a macro, so that it is written once.
#[doc(hidden)]
#[macro_export]
macro_rules! conformance_list {
    ($then:path, $($with:tt)*) => {
        $then! { $($with)*
            publishing: bodies_arrive_byte_for_byte,
            publishing: content_type_is_kept,
            publishing: parts_may_be_reused_once_answered,
            publishing: unroutable_is_told_apart_from_confirmed,
            publishing: a_thousand_open_publishes_are_each_answered_once,
            publishing: too_large_is_told,
            publishing: long_ids_do_no_harm,
            publishing: large_and_small_bodies_mix,
            publishing: delay_is_never_early,
            publishing: a_delay_on_the_way_to_nowhere_is_told,
            publishing: a_blocked_broker_loses_nothing,
            queues: a_declared_queue_is_there,
            queues: a_dead_letter_queue_is_declared_with_its_queue,
            queues: redeclaring_uses_what_is_there,
            queues: depth_counts_what_waits_and_what_is_held,
            queues: depth_of_a_missing_queue_fails,
            queues: a_deleted_queue_is_declared_and_consumed_again,
            flow: window_is_kept,
            flow: window_can_change_while_consuming,
            flow: order_is_kept,
            flow: two_consumers_share_a_queue,
            flow: cancel_stops_deliveries_and_keeps_what_is_held,
            flow: canceled_deliveries_can_be_handed_back,
            flow: consuming_can_begin_again_after_cancel,
            flow: cancel_is_answered_without_room,
            flow: no_room_stops_reading_and_loses_nothing,
            flow: no_room_does_not_stop_publishing,
            flow: oversize_is_told_and_can_be_rejected,
            settling: ack_removes,
            settling: settling_out_of_order_settles_the_right_ones,
            settling: requeue_brings_it_back_redelivered,
            settling: reject_dead_letters,
            settling: extending_keeps_the_delivery,
            settling: unsettled_come_back_after_a_crash,
            settling: losses_are_counted,
            settling: the_delivery_limit_dead_letters,
            connection: publishing_before_connecting_is_lost,
            connection: declaring_before_connecting_is_remembered,
            connection: a_broken_connection_answers_open_publishes_first,
            connection: publishing_while_disconnected_is_lost,
            connection: unsettled_come_back_after_a_broken_connection,
            connection: a_void_tag_settles_nothing,
            connection: consuming_resumes_after_a_broken_connection,
            connection: a_canceled_consumer_stays_canceled_after_a_broken_connection,
            durability: confirmed_survives_the_broker,
            durability: acknowledged_stays_gone,
        }
    };
}

macro_rules! list {
    ($($group:ident: $name:ident,)*) => {
        /// Every case, in a fixed order.
        pub fn cases<H: Harness>() -> Vec<Case<H>> {
            vec![$(Case { name: stringify!($name), run: $group::$name::<H> }),*]
        }
    };
}

conformance_list!(list,);

/// One `#[test]` per case, each with a harness of its own: `conformance_suite!(MyHarness::new())`.
#[macro_export]
macro_rules! conformance_suite {
    ($make:expr) => { $crate::conformance_list!($crate::conformance_suite, @each {$make}); };
    (@each {$make:expr} $($group:ident: $name:ident,)*) => { $(
        #[test]
        fn $name() {
            let mut harness = $make;
            match $crate::conformance::run_case(&mut harness, stringify!($name)) {
                Ok($crate::conformance::Verdict::Passed) => {}
                Ok($crate::conformance::Verdict::Skipped(why)) => eprintln!("skipped: {why}"),
                Err(failure) => panic!("{failure}"),
            }
        }
    )* };
}
