package metrics

// A counter is a metric made of netstack's counters.
type counter struct {
	name, help string
	labels     []string
	series     []series
}

// A series is a counter's value, by its name in stack.Counters, and the values of its labels.
type series struct {
	path   string
	labels []string
}

// of is a series for each pair of a label's value and a path below prefix.
func of(prefix string, pairs ...string) []series { return with(nil, prefix, pairs...) }

// with is of behind labels that are the same for all.
func with(labels []string, prefix string, pairs ...string) []series {
	var all []series
	for i := 0; i < len(pairs); i += 2 {
		all = append(all, series{prefix + pairs[i+1], append(labels[:len(labels):len(labels)], pairs[i])})
	}
	return all
}

func one(path string) []series { return []series{{path: path}} }

func join(lists ...[]series) (all []series) {
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// netstackCounters returns the metrics in which every counter of netstack's appears once, but for
// those of notShown.
func netstackCounters() []counter {
	reason, kind := []string{"reason"}, []string{"type"}
	versionType, versionReason := []string{"version", "type"}, []string{"version", "reason"}
	v4, v6 := []string{"4"}, []string{"6"}
	return []counter{
		{"ethernet_frames_dropped_total", "Number of frames at the wire's interface that passed between link and protocols in neither direction.", reason, of("nic.",
			"unknown_protocol", "unknown_l3_protocol_rcvd_packet_counts",
			"disabled", "disabled_rx.packets",
			"no_buffer_space", "tx_packets_dropped_no_buffer_space")},

		{"arp_packets_received_total", "Number of ARP packets received.", kind, of("arp.",
			"request", "requests_received", "reply", "replies_received")},
		{"arp_packets_sent_total", "Number of ARP packets sent, those without netstack, such as of address checks, not counted.", kind, of("arp.",
			"request", "outgoing_requests_sent", "reply", "outgoing_replies_sent")},
		{"arp_packets_dropped_total", "Number of ARP packets that came to nothing.", reason, of("arp.",
			"malformed", "malformed_packets_received",
			"disabled", "disabled_packets_received",
			"not_for_us", "requests_received_unknown_target_address",
			"no_local_address", "outgoing_request_interface_has_no_local_address_errors",
			"bad_local_address", "outgoing_request_bad_local_address_errors",
			"request_not_sent", "outgoing_requests_dropped",
			"reply_not_sent", "outgoing_replies_dropped")},
		{"neighbour_failed_lookups_total", "Number of packets for a neighbour whose link address could not be found shortly before.", nil, one("nic.neighbor.unreachable_entry_lookups")},
		{"neighbour_answers_dropped_total", "Number of ARP or NDP answers that were not believed.", reason, of("nic.neighbor.",
			"not_asked", "dropped_confirmation_for_noninitiated_neighbor",
			"invalid_address", "dropped_invalid_link_address_confirmations")},

		{"ip_packets_received_total", "Number of IP packets received, loopback's included.", nil, one("ip.packets_received")},
		{"ip_packets_delivered_total", "Number of IP packets handed to a transport protocol.", nil, one("ip.packets_delivered")},
		{"ip_packets_sent_total", "Number of IP packets sent, loopback's included.", nil, one("ip.packets_sent")},
		{"ip_packets_dropped_total", "Number of IP packets that came to nothing, by reason; output_error is on the way out.", reason, join(of("ip.",
			"disabled", "disabled_packets_received",
			"invalid_destination", "invalid_destination_addresses_received",
			"invalid_source", "invalid_source_addresses_received",
			"malformed", "malformed_packets_received",
			"malformed_fragment", "malformed_fragments_received",
			"output_error", "outgoing_packet_errors"), of("nic.",
			"unknown_protocol", "unknown_l4_protocol_rcvd_packet_counts"))},
		{"ip_malformed_payloads_total", "Number of IP packets that were handed to a transport protocol, are for none of its sockets, and are not valid there.", nil, one("nic.malformed_l4_rcvd_packets")},
		{"ip_forwarding_dropped_total", "Number of IP packets for others that could not be forwarded.", reason, of("ip.forwarding.",
			"no_route", "unrouteable",
			"ttl_exceeded", "exhausted_ttl",
			"initializing_source", "initializing_source",
			"link_local_source", "link_local_source",
			"link_local_destination", "link_local_destination",
			"packet_too_big", "packet_too_big",
			"host_unreachable", "host_unreachable",
			"extension_header", "extension_header_problem",
			"unexpected_multicast_interface", "unexpected_multicast_input_interface",
			"unknown_output", "unknown_output_endpoint",
			"multicast_queue_full", "no_multicast_pending_queue_buffer_space",
			"output_full", "outgoing_device_no_buffer_space",
			"output_closed", "outgoing_device_closed_for_send",
			"error", "errors")},
		{"ip_options_received_total", "Number of IPv4 options received.", []string{"option"}, of("ip.",
			"timestamp", "option_timestamp_received",
			"record_route", "option_record_route_received",
			"router_alert", "option_router_alert_received",
			"unknown", "option_unknown_received")},

		{"icmp_messages_received_total", "Number of ICMP messages received, by IP version and type, those for ICMP sockets included.", versionType, join(
			with(v4, "icmp.v4.packets_received.", icmp4...), with(v6, "icmp.v6.packets_received.", icmp6...))},
		{"icmp_messages_sent_total", "Number of ICMP messages that the stack sent of itself, by IP version and type; those that programs make count as IP packets.", versionType, join(
			with(v4, "icmp.v4.packets_sent.", icmp4...), with(v6, "icmp.v6.packets_sent.", icmp6...))},
		{"icmp_messages_dropped_total", "Number of ICMP messages that came to nothing; rate_limited and output_error are on the way out.", versionReason, join(
			with(v4, "icmp.v4.",
				"invalid", "packets_received.invalid", "rate_limited", "packets_sent.rate_limited", "output_error", "packets_sent.dropped"),
			with(v6, "icmp.v6.",
				"invalid", "packets_received.invalid", "unrecognized", "packets_received.unrecognized",
				"router_only", "packets_received.router_only_packets_dropped_by_host",
				"rate_limited", "packets_sent.rate_limited", "output_error", "packets_sent.dropped"))},
		{"igmp_messages_received_total", "Number of IGMP messages received.", kind, of("igmp.packets_received.", igmp...)},
		{"igmp_messages_sent_total", "Number of IGMP messages sent.", kind, of("igmp.packets_sent.", igmp...)},
		{"igmp_messages_dropped_total", "Number of IGMP messages that came to nothing; output_error is on the way out.", reason, of("igmp.",
			"invalid", "packets_received.invalid",
			"checksum", "packets_received.checksum_errors",
			"unrecognized", "packets_received.unrecognized",
			"output_error", "packets_sent.dropped")},

		{"tcp_segments_received_total", "Number of valid TCP segments received; those merged on their way count once.", nil, one("tcp.valid_segments_received")},
		{"tcp_segments_sent_total", "Number of TCP segments sent, retransmissions included; those that the link cuts up count once.", nil, one("tcp.segments_sent")},
		{"tcp_segments_retransmitted_total", "Number of TCP segments sent again.", nil, one("tcp.retransmits")},
		{"tcp_segments_dropped_total", "Number of TCP segments that came to nothing; output_error is on the way out, listen_full_ ones are for a full backlog.", reason, of("tcp.",
			"invalid", "invalid_segments_received",
			"checksum", "checksum_errors",
			"listen_full_syn", "listen_overflow_syn_drop",
			"listen_full_ack", "listen_overflow_ack_drop",
			"invalid_syn_cookie", "listen_overflow_invalid_syn_cookie_rcvd",
			"forward_full", "forward_max_in_flight_drop",
			"output_error", "segment_send_errors")},
		{"tcp_resets_received_total", "Number of TCP resets received.", nil, one("tcp.resets_received")},
		{"tcp_resets_sent_total", "Number of TCP resets sent.", nil, one("tcp.resets_sent")},
		{"tcp_connects_started_total", "Number of TCP handshakes begun with a SYN to somebody; ustack_tcp_connect_duration_seconds tells how they ended.", nil, one("tcp.active_connection_openings")},
		{"tcp_connections_received_total", "Number of TCP connections that others established to a listener.", nil, one("tcp.passive_connection_openings")},
		{"tcp_connections_ended_total", "Number of established TCP connections that ended: closed, reset, or timed out without an answer; one may count under more than one.", []string{"how"}, of("tcp.",
			"closed", "established_closed", "reset", "established_resets", "timeout", "established_timedout")},
		{"tcp_connection_attempts_failed_total", "Number of attempts to connect or listen that failed in the stack.", nil, one("tcp.failed_connection_attempts")},
		{"tcp_port_reservations_failed_total", "Number of times that no port could be reserved.", nil, one("tcp.failed_port_reservations")},
		{"tcp_recoveries_total", "Number of recoveries from loss, by what began them.", kind, of("tcp.",
			"fast", "fast_recovery", "sack", "sack_recovery", "tail_loss_probe", "tlp_recovery", "timeout", "timeouts")},
		{"tcp_recoveries_spurious_total", "Number of recoveries that turned out to be needless.", kind, of("tcp.",
			"loss", "spurious_recovery", "timeout", "spurious_rto_recovery")},
		{"tcp_recovery_segments_retransmitted_total", "Number of TCP segments sent again, by phase; part of ustack_tcp_segments_retransmitted_total.", []string{"phase"}, of("tcp.",
			"slow_start", "slow_start_retransmits", "fast_recovery", "fast_retransmit")},
		{"tcp_segments_acknowledged_twice_total", "Number of TCP segments that the peer reports to have had before (DSACK, RFC 2883).", nil, one("tcp.segments_acked_with_dsack")},
		{"tcp_syn_cookies_sent_total", "Number of SYN cookies sent.", nil, one("tcp.listen_overflow_syn_cookie_sent")},
		{"tcp_syn_cookies_received_total", "Number of valid SYN cookies received.", nil, one("tcp.listen_overflow_syn_cookie_rcvd")},

		{"udp_datagrams_received_total", "Number of valid UDP datagrams received for a socket, those included that it had no room for.", nil, one("udp.packets_received")},
		{"udp_datagrams_sent_total", "Number of UDP datagrams sent.", nil, one("udp.packets_sent")},
		{"udp_datagrams_dropped_total", "Number of UDP datagrams that came to nothing; output_error is on the way out. A malformed one for no socket counts as no_port too.", reason, of("udp.",
			"no_port", "unknown_port_errors",
			"receive_buffer", "receive_buffer_errors",
			"malformed", "malformed_packets_received",
			"checksum", "checksum_errors",
			"output_error", "packet_send_errors")},
	}
}

// The types of messages: label, and netstack's name.
var (
	icmp4 = same("echo_request", "echo_reply", "dst_unreachable", "src_quench", "redirect", "time_exceeded", "param_problem",
		"timestamp", "timestamp_reply", "info_request", "info_reply")
	icmp6 = same("echo_request", "echo_reply", "dst_unreachable", "packet_too_big", "time_exceeded", "param_problem",
		"router_solicit", "router_advert", "neighbor_solicit", "neighbor_advert", "redirect_msg",
		"multicast_listener_query", "multicast_listener_report", "multicast_listener_report_v2", "multicast_listener_done")
	igmp = same("membership_query", "v1_membership_report", "v2_membership_report", "v3_membership_report", "leave_group")
)

// same pairs each name with itself.
func same(names ...string) (pairs []string) {
	for _, n := range names {
		pairs = append(pairs, n, n)
	}
	return pairs
}

// notShown are counters of netstack's that are in no metric, and why.
func notShown() map[string]string {
	const link, filter, state = "ustack_link_ has it", "the stack has no packet filter", "ustack_sockets has it"
	return map[string]string{
		"arp.packets_received":             "the sum of its types and of what was malformed",
		"dropped_packets":                  "ambiguous: drops of several layers, which are counted there too",
		"ip.valid_packets_received":        "those received less those dropped",
		"ip.ip_tables_forward_dropped":     filter,
		"ip.ip_tables_input_dropped":       filter,
		"ip.ip_tables_output_dropped":      filter,
		"ip.ip_tables_postrouting_dropped": filter,
		"ip.ip_tables_prerouting_dropped":  filter,
		"nic.disabled_rx.bytes":            "its frames are counted",
		"nic.rx.bytes":                     link,
		"nic.rx.packets":                   link,
		"nic.tx.bytes":                     link,
		"nic.tx.packets":                   link,
		"tcp.current_connected":            state,
		"tcp.current_established":          state,
	}
}
