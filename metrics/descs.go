package metrics

import "github.com/prometheus/client_golang/prometheus"

// descs are the metrics that are not counters of netstack's.
type descs struct {
	build *prometheus.Desc

	linkUp, linkMTU, linkQueues, linkInfo                *prometheus.Desc
	linkRxFrames, linkRxBytes, linkTxFrames, linkTxBytes *prometheus.Desc
	linkDrops                                            *prometheus.Desc

	connects, sockets, neighbours                            *prometheus.Desc
	memoryCeiling, memoryBooked, memoryRefused, memoryShrunk *prometheus.Desc

	port portDescs

	clients, accepted, flows, requests *prometheus.Desc
}

func newDescs() descs {
	return descs{
		build: newDesc("build_info", "1, with the version of ustack and of the Go it was built with.", "version", "goversion"),

		linkUp:       newDesc("link_up", "1 while the link carries frames, 0 when it is down on the host or gone.", "link"),
		linkMTU:      newDesc("link_mtu_bytes", "Largest payload of a frame in bytes, without the 14 of the Ethernet header.", "link"),
		linkQueues:   newDesc("link_queues", "Number of queues of the link.", "link"),
		linkInfo:     newDesc("link_info", "1, with what the link states about itself; offloads are those that frames may carry.", "link", "kind", "driver", "hardware_addr", "offloads_received", "offloads_sent"),
		linkRxFrames: newDesc("link_frames_received_total", "Number of Ethernet frames read from the link; one that the link has merged counts once.", "link"),
		linkRxBytes:  newDesc("link_received_bytes_total", "Bytes read from the link, Ethernet headers included.", "link"),
		linkTxFrames: newDesc("link_frames_sent_total", "Number of Ethernet frames that the link took; one that it has yet to segment counts once.", "link"),
		linkTxBytes:  newDesc("link_sent_bytes_total", "Bytes that the link took, Ethernet headers included.", "link"),
		linkDrops:    newDesc("link_frames_dropped_total", "Number of Ethernet frames that were not passed on, by the reason that 'ustack link' shows: rx_ towards the stack, tx_ from it.", "link", "reason"),

		connects:   newDesc("tcp_connect_duration_seconds", "Seconds from the start of an attempt to connect to one address to its end, search for the link address included, by how it ended.", "outcome"),
		sockets:    newDesc("sockets", "Number of sockets of the stack by protocol and state, as 'ustack ss' names it.", "protocol", "state"),
		neighbours: newDesc("neighbours", "Number of entries of the ARP (version 4) and NDP (version 6) tables by state, as 'ustack neigh' names it.", "link", "version", "state"),

		memoryCeiling: newDesc("memory_ceiling_bytes", "Bytes that the buffers of all sockets may hold together, see --memory."),
		memoryBooked:  newDesc("memory_booked_bytes", "Bytes that the buffers of all sockets may hold now; never above the ceiling by more than 8 KiB a socket."),
		memoryRefused: newDesc("memory_growths_refused_total", "Number of times that a buffer was to grow and could not, or only in part."),
		memoryShrunk:  newDesc("memory_shrinks_total", "Number of times that a buffer was made smaller."),

		port: newPortDescs(),

		clients:  newDesc("control_clients", "Number of open connections to the control socket."),
		accepted: newDesc("control_clients_accepted_total", "Number of connections to the control socket that were accepted."),
		flows:    newDesc("control_flows", "Number of open data paths between programs and the stack."),
		requests: newDesc("control_requests_total", "Number of requests that the control socket answered: http by path, flow by operation.", "kind", "request", "outcome"),
	}
}

func (d *descs) all() []*prometheus.Desc {
	return append(d.port.all(),
		d.build,
		d.linkUp, d.linkMTU, d.linkQueues, d.linkInfo, d.linkRxFrames, d.linkRxBytes, d.linkTxFrames, d.linkTxBytes, d.linkDrops,
		d.connects, d.sockets, d.neighbours, d.memoryCeiling, d.memoryBooked, d.memoryRefused, d.memoryShrunk,
		d.clients, d.accepted, d.flows, d.requests,
	)
}
