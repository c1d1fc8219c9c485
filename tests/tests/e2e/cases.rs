//! The text cases in `tests/cases`; their form is told in [`qd_tests::cases`].

use std::collections::BTreeSet;
use std::fs;

macro_rules! cases {
    ($($name:ident)+) => {
        const NAMES: &[&str] = &[$(stringify!($name)),+];
        $(
            #[test]
            fn $name() {
                qd_tests::cases::run(stringify!($name));
            }
        )+
    };
}

cases! {
    bench_completions_and_help
    bodies_are_never_altered
    bodies_with_the_terminator_are_not_printed_where_it_would_lie
    create_compares_only_the_attributes_given
    create_refuses_what_no_queue_may_have
    drain_takes_everything_and_ends
    drop_asks_for_yes_when_there_are_messages
    errors_as_json
    full_queue_refuses_and_takes_again
    headers_come_back
    life_of_a_message
    list_and_info
    message_comes_back_when_it_is_not_deleted
    message_over_the_limit_of_its_queue
    names_are_held_to_the_rule
    no_server
    output_that_nobody_takes
    ping_and_stop
    receipts_from_standard_input
    receipts_that_do_not_hold
    receive_forms_of_output
    receive_prefers_the_queue_named_first
    receive_with_nothing_there_is_1
    received_at_most_once_when_deleted_on_receive
    scripts_run_up_to_the_first_failure
    send_takes_messages_from_arguments_input_and_files
    send_to_nowhere
    stream_that_is_stopped_tells_where_to_go_on
    usage_is_2
}

#[test]
fn every_file_among_the_cases_is_run() {
    let files = fs::read_dir(qd_tests::cases::directory()).unwrap();
    let files = files.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let listed = NAMES.iter().map(|name| format!("{name}.txt"));
    assert_eq!(files.collect::<BTreeSet<_>>(), listed.collect::<BTreeSet<_>>());
}
