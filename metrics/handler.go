package metrics

import (
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// maxScrapes is how many scrapes may be under way at once; what is beyond is answered by 503.
const maxScrapes = 4

// NewHandler returns a Handler that answers with the metrics of NewCollector and those of the
// process and of Go's runtime: in Prometheus' text format, or in OpenMetrics or protobuf where Accept asks for
// it, compressed where Accept-Encoding does. log gets what could not be collected; nil discards.
func NewHandler(cfg Config, log *slog.Logger) http.Handler {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	r := prometheus.NewRegistry()
	r.MustRegister(
		NewCollector(cfg),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		ErrorHandling:       promhttp.ContinueOnError, // one bad series does not hide the others
		Registry:            r,
		MaxRequestsInFlight: maxScrapes,
		EnableOpenMetrics:   true,
	})
}
