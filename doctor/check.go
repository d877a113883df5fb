package doctor

import (
	"errors"
	"slices"
)

// A Check looks for one cause.
type Check struct {
	// Cause is the Finding's.
	Cause string
	// About is what holds when there is no finding: "the interface is up".
	About string
	// Breaks says that nothing gets through with this cause, so that there is no use
	// in probes.
	Breaks bool
	// Probed says that the check judges what the probes saw, Environment.Observed.
	Probed bool
	// After are the causes of which this one merely follows: with one of them found it is
	// not looked for.
	After []string
	// AfterAny has it looked for only where nothing was found before.
	AfterAny bool
	// Find returns what it found. An error says why it could not be looked for.
	Find func(*Environment) ([]Finding, error)
}

// errNotProbed says that a check needs the answers to probes that were not sent.
var errNotProbed = errors.New("no probe was sent")

// Checks returns all checks in the order in which they are judged: causes come before
// what follows from them, so that After names only checks further up. What a check looks
// at comes from gatherers, and what it judges of the probes' answers from probers.
func Checks() []Check {
	return slices.Concat(
		linkChecks(),
		programChecks(),
		sizeChecks(),
		bridgeChecks(),
		stationChecks(),
		routeChecks(),
		filterChecks(),
		answerChecks(),
		forwardChecks(),
		lastChecks(),
	)
}

// State is what came of a check.
type State string

// The States of an Outcome.
const (
	StateOK        State = "ok"
	StateFound     State = "found"
	StateExplained State = "explained" // another finding explains it
	StateUnknown   State = "unknown"   // it could not be looked for
)

// An Outcome is what came of one check.
type Outcome struct {
	Check *Check
	State State
	// Note says by which cause it is explained, or why it is not known.
	Note     string
	Findings []Finding
}

// Judge runs all checks on what was gathered.
func Judge(env *Environment) *Report {
	r := &Report{Env: env}
	for _, option := range []string{"loss", "corrupt", "duplicate", "reorder", "rate"} {
		if env.impaired(option) {
			r.Notes = append(r.Notes, "the link is disturbed on purpose: option "+option+" of "+env.Stack.Link.Spec)
		}
	}
	r.Notes = append(r.Notes, env.Notes...)
	found := make(map[string]bool)
	for _, c := range Checks() {
		out := Outcome{Check: &c, State: StateOK}
		if i := slices.IndexFunc(c.After, func(cause string) bool { return found[cause] }); i >= 0 {
			out.State, out.Note = StateExplained, c.After[i]
		} else if c.AfterAny && len(found) > 0 {
			out.State, out.Note = StateExplained, r.Findings()[0].Cause
		} else if c.Probed && env.Observed == nil {
			out.State, out.Note = StateUnknown, errNotProbed.Error()
		} else if all, err := c.Find(env); err != nil {
			out.State, out.Note = StateUnknown, err.Error()
		} else if len(all) > 0 {
			out.State = StateFound
			for _, f := range all {
				f.Cause = c.Cause
				if f.Link == "" {
					f.Link = env.Link
				}
				out.Findings = append(out.Findings, f)
			}
			found[c.Cause] = true
		}
		r.Outcomes = append(r.Outcomes, out)
	}
	return r
}

// one returns a single finding.
func one(f Finding) ([]Finding, error) { return []Finding{f}, nil }

// none is what a check returns that found nothing.
func none() ([]Finding, error) { return nil, nil }
