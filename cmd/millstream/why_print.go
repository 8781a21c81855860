package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/millstream-io/millstream/pipeline"
)

// print tells the hops for people, in the order of the pipeline.
func (h *hops) print(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	defer func() { _ = t.Flush() }() // to standard output
	fmt.Fprintf(t, "message id\t%s\n", printable(h.MessageID))
	if len(h.Arrivals) > 0 {
		fmt.Fprint(t, "\nARRIVED\tSOURCE\tPARTITION\tOFFSET\tOUTCOME\n")
	}
	for _, a := range h.Arrivals {
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%s\n", clock(a.Received), printable(a.Source), a.Partition, a.Offset, a.Outcome)
	}
	if !h.TopicRead {
		fmt.Fprintf(t, "\nTopic events was not read to its end within %s: the event may have arrived there again.\n", topicBudget)
	}
	if len(h.DeadLetters) > 0 {
		fmt.Fprint(t, "\nREFUSED\tSTAGE\tCODE\tREAD FROM\tREASON\n")
	}
	for _, d := range h.DeadLetters {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s/%d/%d\t%s\n", clock(d.Failed), printable(d.Stage), printable(d.Code), printable(d.Topic), d.Partition, d.Offset, printable(d.Reason))
	}
	for _, e := range h.Events {
		e.print(t)
	}
	h.printEffects(t)
}

func (e *storedEvent) print(t io.Writer) {
	fmt.Fprintf(t, "\nstored\t%s, from %s\nreceived\t%s\n", printable(strings.TrimSpace(e.Type+" "+e.Event)), printable(e.Source), clock(e.Received))
	late := ""
	if e.Late {
		late = ", late: older than the dedup window"
	}
	fmt.Fprintf(t, "time\t%s%s\n", clock(e.Time), late)
	if e.Original != nil && !e.Original.Equal(e.Time) {
		fmt.Fprintf(t, "\tcorrected: the sender said %s\n", clock(*e.Original))
	}
	if e.Sent != nil {
		fmt.Fprintf(t, "sent\t%s\n", clock(*e.Sent))
	}
	fmt.Fprintf(t, "resolved\tpartition %d, offset %d\n", e.Partition, e.Offset)
	if e.Primary == (pipeline.ID{}) {
		fmt.Fprint(t, "person\tnobody: it has no usable identifier\n")
		return
	}
	fmt.Fprintf(t, "primary\t%s\nperson then\t%s\nperson now\t%s\n", e.Primary, e.Then, e.Now)
}

func (h *hops) printEffects(t io.Writer) {
	if len(h.Merges) > 0 {
		fmt.Fprint(t, "\nAT\tWHAT\tBY\tFROM\tINTO\tREASON\n")
	}
	for _, m := range h.Merges {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", clock(m.At), m.Kind, printable(m.IDType), m.From, m.Into, printable(m.Reason))
	}
	printTransitions(t, h.Transitions)
	if len(h.Scores) > 0 {
		fmt.Fprint(t, "\nAT\tSCORE\tVALUE\tBEFORE\tCAUSE\n")
	}
	for _, s := range h.Scores {
		value, before := "none", "none"
		if s.HasValue {
			value = fmt.Sprintf("%g", s.Value)
		}
		if s.Previous != nil {
			before = fmt.Sprintf("%g", *s.Previous)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", clock(s.At), printable(s.Score), value, before, printable(s.Cause))
	}
	if len(h.Deliveries) > 0 {
		fmt.Fprint(t, "\nSENT\tSINK\tMESSAGE\tATTEMPT\tSTATUS\tOUTCOME\tWEBHOOK ID\n")
	}
	for _, d := range h.Deliveries {
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%d\t%s\t%s\n", clock(d.SentAt), printable(d.Sink), printable(d.Type), d.Attempt, d.Status, printable(d.Outcome), d.WebhookID)
	}
}
