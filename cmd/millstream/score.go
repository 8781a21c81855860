package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/millstream-io/millstream/stages/score/clv"
)

func scoreCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "score",
		GroupID: "pipeline",
		Short:   "Work on scores",
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(scoreFitCommand())
	return c
}

// fitOptions are the flags of score fit.
type fitOptions struct {
	customer, time, amount string // columns of the file
	clickhouse             string
	passwordFile           string
	event                  string
	unit                   string
	until                  string
	json                   bool
}

// units of the models' times. Months and years are no fixed length.
var fitUnits = map[string]time.Duration{"day": 24 * time.Hour, "week": 7 * 24 * time.Hour}

func scoreFitCommand() *cobra.Command {
	var o fitOptions
	c := &cobra.Command{
		Use:   "fit [purchases.csv]",
		Short: "Fit the models of lifetime value to past purchases, and print the YAML",
		Long: `Fits BG/NBD (will the customer buy again, and how often) and, if amounts are known,
Gamma-Gamma (what a purchase is worth) by maximum likelihood.

The purchases come from a CSV file with a header, one purchase a line, or from the events of a
ClickHouse that a pipeline has filled. A file with the columns x, t_x and T (and m, the average
value of repeat purchases) is taken as histories ready-made. Purchases of one customer on one day
(UTC) are one transaction, as in the papers and in the stage score.

Some hundred customers who bought again are needed for parameters that mean something. Leave those
out who came in the last weeks, or fit again from time to time: the parameters are those of the
customers they were fitted to.

  millstream score fit purchases.csv --customer customer_no --time booked_at --amount total
  millstream score fit --clickhouse "$CLICKHOUSE_URL" --event "Order Completed"

The password of ClickHouse is read from --password-file, else from CLICKHOUSE_PASSWORD.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return fitScores(c.Context(), o, args, c.OutOrStdout(), c.ErrOrStderr())
		},
	}
	f := c.Flags()
	f.StringVar(&o.customer, "customer", "customer", "column of the customer's id")
	f.StringVar(&o.time, "time", "time", "column of the time of purchase")
	f.StringVar(&o.amount, "amount", "amount", "column of the amount; without such a column Gamma-Gamma is not fitted")
	f.StringVar(&o.clickhouse, "clickhouse", "", "read table events of this ClickHouse: http://user@host:8123/?database=shop")
	f.StringVar(&o.passwordFile, "password-file", "", "file with the password of ClickHouse")
	f.StringVar(&o.event, "event", "Order Completed", "event that is a purchase, in ClickHouse and in the printed YAML")
	f.StringVar(&o.unit, "unit", "week", "unit of the models' times: day or week")
	f.StringVar(&o.until, "until", "", "last day of the observation, such as 2026-03-31; later purchases are left out (default: the day of the last purchase)")
	f.BoolVar(&o.json, "json", false, "print one JSON object")
	return c
}

// fitResult is what score fit prints with --json.
type fitResult struct {
	Unit       string       `json:"unit"`
	BGNBD      *fittedModel `json:"bgnbd"`
	GammaGamma *fittedModel `json:"gammagamma,omitempty"`
	LeftOut    int          `json:"left_out,omitempty"` // customers whose average is not above zero, by Gamma-Gamma
	YAML       string       `json:"yaml"`
	bgnbd      clv.BGNBD
	gammagamma clv.GammaGamma
}

type fittedModel struct {
	Parameters any `json:"parameters"`
	clv.Fit
}

func fitScores(ctx context.Context, o fitOptions, args []string, out, progress io.Writer) error {
	unit, ok := fitUnits[o.unit]
	switch {
	case !ok:
		return &exitError{exitUsage, fmt.Errorf("--unit is %q: write day or week", o.unit)}
	case (len(args) == 1) == (o.clickhouse != ""):
		return &exitError{exitUsage, errors.New("name either a CSV file or --clickhouse")}
	}
	until, err := parseUntil(o.until)
	if err != nil {
		return &exitError{exitUsage, err}
	}
	var customers []clv.History
	money := true
	if o.clickhouse != "" {
		customers, err = historiesFromClickHouse(ctx, o, unit, until)
	} else {
		customers, money, err = historiesFromFile(args[0], o, unit, until)
	}
	if err != nil {
		return err
	}
	r, err := fitModels(ctx, o, customers, money, progress)
	if err != nil {
		if ctx.Err() != nil {
			return &exitError{exitInterrupted, errors.New("interrupted")}
		}
		return &exitError{exitCheckFailed, err}
	}
	if o.json {
		return json.NewEncoder(out).Encode(r)
	}
	r.print(out)
	return nil
}

func parseUntil(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.DateOnly, text)
	if err != nil {
		return t, fmt.Errorf("--until is %q: write a day such as 2026-03-31", text)
	}
	return t, nil
}

func fitModels(ctx context.Context, o fitOptions, customers []clv.History, money bool, progress io.Writer) (*fitResult, error) {
	r := &fitResult{Unit: o.unit}
	said := newCounter(progress, "fit BG/NBD")
	model, fit, err := clv.FitBGNBD(ctx, customers, said.set)
	said.end()
	if err != nil {
		return nil, fmt.Errorf("fit BG/NBD to %d customers: %w", len(customers), err)
	}
	r.bgnbd, r.BGNBD = model, &fittedModel{model, fit}
	if money {
		valued := make([]clv.History, 0, len(customers))
		for _, h := range customers {
			if h.X > 0 && !(h.M > 0) {
				r.LeftOut++
				continue
			}
			valued = append(valued, h)
		}
		said = newCounter(progress, "fit Gamma-Gamma")
		g, fit, err := clv.FitGammaGamma(ctx, valued, said.set)
		said.end()
		if err != nil {
			return nil, fmt.Errorf("fit Gamma-Gamma: %w", err)
		}
		r.gammagamma, r.GammaGamma = g, &fittedModel{g, fit}
	}
	r.YAML = r.snippet(o)
	return r, nil
}

// snippet is what to paste under stages.
func (r *fitResult) snippet(o fitOptions) string {
	m := r.bgnbd
	bgnbd := fmt.Sprintf("{r: %s, alpha: %s, a: %s, b: %s, unit: %s}", digits(m.R), digits(m.Alpha), digits(m.A), digits(m.B), r.Unit)
	event := strconv.Quote(o.event)
	text := "- score:\n    alive: {bgnbd: " + bgnbd + ", event: " + event + "}\n"
	if r.GammaGamma != nil {
		g := r.gammagamma
		text += fmt.Sprintf("    ltv:\n      gammagamma: {p: %s, q: %s, v: %s}\n      bgnbd: %s\n      horizon: 90d\n      event: %s\n      revenue: properties.revenue\n",
			digits(g.P), digits(g.Q), digits(g.V), bgnbd, event)
	}
	return text
}

// digits writes a parameter: what lies beyond six digits is below what any data determines.
func digits(v float64) string {
	rounded, _ := strconv.ParseFloat(strconv.FormatFloat(v, 'g', 6, 64), 64)
	return strconv.FormatFloat(rounded, 'f', -1, 64)
}

func (r *fitResult) print(w io.Writer) {
	m := r.bgnbd
	fmt.Fprintf(w, "BG/NBD       r %s  alpha %s  a %s  b %s  (unit: %s)\n", digits(m.R), digits(m.Alpha), digits(m.A), digits(m.B), r.Unit)
	fmt.Fprintf(w, "             log-likelihood %.1f  n %d\n", r.BGNBD.LogLikelihood, r.BGNBD.Customers)
	if r.GammaGamma == nil {
		fmt.Fprintln(w, "Gamma-Gamma  not fitted: there is no column with amounts, see --amount")
	} else {
		g := r.gammagamma
		fmt.Fprintf(w, "Gamma-Gamma  p %s  q %s  v %s\n", digits(g.P), digits(g.Q), digits(g.V))
		fmt.Fprintf(w, "             log-likelihood %.1f  n %d (customers who bought again)\n", r.GammaGamma.LogLikelihood, r.GammaGamma.Customers)
	}
	if r.LeftOut > 0 {
		fmt.Fprintf(w, "             %d customers left out: the average of their repeat purchases is not above zero\n", r.LeftOut)
	}
	fmt.Fprintf(w, "\nFor the pipeline, under stages:\n\n%s", r.YAML)
}

// counter says how far a search without a known end has come: on one line of a terminal, elsewhere every ten seconds.
type counter struct {
	bar   *bar // for its way to write on a terminal
	shown time.Time
}

func newCounter(w io.Writer, what string) *counter { return &counter{newBar(w, what), time.Now()} }

func (c *counter) set(n int) {
	gap := 10 * time.Second
	if c.bar.terminal {
		gap = 100 * time.Millisecond
	}
	if time.Since(c.shown) < gap {
		return
	}
	c.shown = time.Now()
	c.bar.any = true
	if c.bar.terminal {
		fmt.Fprintf(c.bar.w, "\r%s: %d steps", c.bar.what, n)
		return
	}
	fmt.Fprintf(c.bar.w, "%s: %d steps\n", c.bar.what, n)
}

func (c *counter) end() { c.bar.end() }

// clickhousePassword reads the password from the file or the environment.
func clickhousePassword(file string) (string, error) {
	if file == "" {
		return os.Getenv("CLICKHOUSE_PASSWORD"), nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read the password of ClickHouse: %w", err)
	}
	for len(b) > 0 && (b[len(b)-1] == '\n' || b[len(b)-1] == '\r') {
		b = b[:len(b)-1]
	}
	return string(b), nil
}
