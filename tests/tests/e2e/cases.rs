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
    apply_changes_nothing_when_anything_is_wrong
    apply_makes_the_queues_what_a_file_says
    apply_prunes_what_the_file_does_not_have
    atomic_send_is_all_or_nothing
    bench_completions_and_help
    bodies_are_never_altered
    bodies_with_the_terminator_are_not_printed_where_it_would_lie
    closed_descriptors_lose_nothing
    columns_are_known_before_anything_is_done
    contexts_are_servers_with_a_name
    contradictory_flags_of_dead_letters_are_2
    control_characters_are_escaped
    create_compares_only_the_attributes_given
    create_refuses_what_no_queue_may_have
    csv_has_a_header_and_quotes
    cycles_of_dead_letter_queues_are_refused
    dead_letter_none_delivers_on_and_on
    dead_letters_that_die_again_move_on
    dedup_window_takes_a_message_once
    delayed_message_holds_its_group
    delayed_messages_come_when_they_are_due
    delete_and_send_in_one_step
    delete_by_id
    drain_takes_everything_and_ends
    drop_asks_for_yes_when_there_are_messages
    drop_oldest_makes_room
    dropped_messages_become_dead_letters
    durations_and_times_are_held_to_their_ranges
    errors_as_json
    expired_messages_become_dead_letters
    export_writes_what_apply_reads
    extend_moves_the_end_of_a_lease
    failed_message_holds_its_group
    full_dead_letter_queue_blocks_and_is_tried_again
    full_queue_refuses_and_takes_again
    groups_take_turns
    headers_come_back
    json_lines_are_messages
    life_of_a_message
    list_and_info
    max_deliveries_moves_to_the_dead_letter_queue
    max_in_flight_holds_receives_back
    message_comes_back_when_it_is_not_deleted
    message_that_comes_back_meanwhile_ends_a_receive
    message_over_the_limit_of_its_queue
    missing_dead_letter_queue_blocks_and_is_tried_again
    names_are_held_to_the_rule
    no_server
    ordered_group_is_held_by_one_lease
    output_for_a_shell
    output_that_nobody_takes
    paused_queue_delivers_nothing
    peek_looks_without_taking
    ping_and_stop
    pings_are_measured
    priorities_come_first
    purge_removes_messages
    receipts_from_standard_input
    receipts_of_another_queue_change_nothing
    receipts_that_do_not_hold
    receive_forms_of_output
    receive_into_files
    receive_prefers_the_queue_named_first
    receive_with_nothing_there_is_1
    received_at_most_once_when_deleted_on_receive
    records_with_their_lengths
    redrive_moves_dead_letters_back
    reject_moves_to_the_dead_letter_queue
    release_gives_back_at_once
    release_with_a_delay
    release_without_counting
    reschedule_moves_a_message_in_time
    retention_removes_what_is_old
    retry_delay_spaces_the_attempts
    scripts_run_up_to_the_first_failure
    send_takes_messages_from_arguments_input_and_files
    send_to_nowhere
    server_check_is_a_plugin_for_nagios
    stats_shows_counters
    stats_watch_looks_again
    stream_that_is_stopped_tells_where_to_go_on
    time_to_live_removes_a_message
    top_needs_a_terminal
    unique_message_is_there_once
    update_changes_a_queue_live
    usage_is_2
    work_batches
    work_gives_commands_what_they_need
    work_settles_by_exit_status
    work_that_cannot_be_done_takes_nothing
}

#[test]
fn every_file_among_the_cases_is_run() {
    let files = fs::read_dir(qd_tests::cases::directory()).unwrap();
    let files = files.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let listed = NAMES.iter().map(|name| format!("{name}.txt"));
    assert_eq!(files.collect::<BTreeSet<_>>(), listed.collect::<BTreeSet<_>>());
}
