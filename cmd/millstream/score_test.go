package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/millstream-io/millstream/internal/chdb"
	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/sinks/clickhouse"
	"github.com/millstream-io/millstream/stages/score/clv"
)

// selfVariable makes the test binary the program.
const selfVariable = "MILLSTREAM_TEST_SELF"

func TestMain(m *testing.M) {
	if os.Getenv(selfVariable) != "" {
		os.Exit(run(context.Background(), os.Args[1:]))
	}
	os.Exit(m.Run())
}

// scoreFit runs the command and returns its output, or its error.
func scoreFit(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	root := rootCommand()
	root.SetArgs(append([]string{"score", "fit"}, args...))
	root.SetOut(&out)
	root.SetErr(&out)
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

type purchase struct {
	customer int
	at       time.Time
	cents    int
}

// purchases of customers who come back less and less, some of them twice a day.
func purchases() (list []purchase) {
	random := rand.New(rand.NewPCG(5, 6))
	start := time.Date(2025, 1, 1, 9, 0, 0, 0, time.UTC)
	for customer := range 400 {
		at := start.Add(time.Duration(random.IntN(60*24)) * time.Hour)
		typical, leaves := 500+random.IntN(6000), []float64{0.05, 0.2, 0.6, 0.9}[customer%4]
		for at.Before(start.Add(245 * 24 * time.Hour)) {
			list = append(list, purchase{customer, at, typical/2 + random.IntN(typical)})
			if random.IntN(5) == 0 {
				list = append(list, purchase{customer, at.Add(time.Hour), 100})
			}
			if random.Float64() < leaves {
				break
			}
			at = at.Add(time.Duration(random.ExpFloat64() * float64(customer%9+1) * 5 * 24 * float64(time.Hour)))
		}
	}
	return list
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "purchases.csv")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// asCSV writes them as an export of an ERP does: semicolons, a byte order mark, columns of other names.
func asCSV(list []purchase) string {
	var b strings.Builder
	b.WriteString("\xef\xbb\xbfcustomer_no;booked_at;total\n")
	for _, p := range list {
		fmt.Fprintf(&b, "%d;%s;%d.%02d\n", p.customer, p.at.Format(time.DateTime), p.cents/100, p.cents%100)
	}
	return b.String()
}

// TestScoreFit: the same purchases as a file, as histories and in ClickHouse give the same parameters, and the YAML that is printed
// names them.
func TestScoreFit(t *testing.T) {
	list := purchases()
	columns := []string{"--customer", "customer_no", "--time", "booked_at", "--amount", "total", "--until", "2025-09-07"}
	said, err := scoreFit(t, append([]string{write(t, asCSV(list))}, columns...)...)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"BG/NBD ", "log-likelihood -", "n 400", "Gamma-Gamma ", "- score:\n    alive: {bgnbd: {r: ", `unit: week}, event: "Order Completed"}`} {
		if !strings.Contains(said, want) {
			t.Errorf("it does not say %q:\n%s", want, said)
		}
	}
	_, snippet, _ := strings.Cut(said, "under stages:\n\n")
	var stages []struct {
		Score struct {
			Alive struct{ BGNBD clv.BGNBD }
			LTV   struct{ GammaGamma clv.GammaGamma }
		}
	}
	if err := yaml.Unmarshal([]byte(snippet), &stages); err != nil || len(stages) != 1 {
		t.Fatalf("%v: %s", err, snippet)
	}
	want := stages[0].Score
	if want.Alive.BGNBD.Valid() != nil || want.LTV.GammaGamma.Valid() != nil {
		t.Errorf("%+v", want)
	}

	same := func(t *testing.T, args ...string) {
		t.Helper()
		said, err := scoreFit(t, append(args, "--json", "--until", "2025-09-07")...)
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			BGNBD struct {
				Parameters clv.BGNBD
				N          int
			}
			GammaGamma struct{ Parameters clv.GammaGamma }
		}
		if err := json.Unmarshal([]byte(said), &got); err != nil {
			t.Fatalf("%v: %s", err, said)
		}
		if got.BGNBD.N != 400 || math.Abs(got.BGNBD.Parameters.R-want.Alive.BGNBD.R) > 1e-4 || math.Abs(got.GammaGamma.Parameters.V-want.LTV.GammaGamma.V) > 1e-3 {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	t.Run("histories", func(t *testing.T) {
		customers := map[string]spent{}
		for _, p := range list {
			id := fmt.Sprint(p.customer)
			if customers[id] == nil {
				customers[id] = spent{}
			}
			customers[id][dayOf(p.at)] += float64(p.cents) / 100
		}
		text := "customer,x,t_x,T,m\n"
		for id, days := range customers {
			h := days.history(dayOf(time.Date(2025, 9, 7, 0, 0, 0, 0, time.UTC)), 7*24*time.Hour)
			text += fmt.Sprintf("%s,%g,%g,%g,%g\n", id, h.X, h.TX, h.T, h.M)
		}
		same(t, write(t, text))
	})
	t.Run("clickhouse", func(t *testing.T) {
		url := engineWith(t, list)
		same(t, "--clickhouse", url, "--event", "Bought")
		if _, err := scoreFit(t, "--clickhouse", url, "--event", "Sold"); err == nil || !strings.Contains(err.Error(), `no event "Sold"`) {
			t.Errorf("an event that is not there: %v", err)
		}
	})
}

// engineWith starts a ClickHouse with the schema of a pipeline, and the purchases in it.
func engineWith(t *testing.T, list []purchase) string {
	t.Helper()
	library, err := chdb.Fetch(t.Context(), chdb.FetchOptions{})
	if err != nil {
		t.Skipf("needs the ClickHouse engine: %v", err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	engine, err := chdb.Start(t.Context(), chdb.Options{Dir: t.TempDir(), Engine: chdb.Engine{Library: library}, Listen: "127.0.0.1:0", MemoryLimit: 2 << 30,
		Command: []string{self, "engine-child"}, Env: []string{selfVariable + "=1"}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := engine.Close(); err != nil {
			t.Error(err)
		}
	})
	address, _, _ := strings.Cut(engine.URL(), "?")
	sink, err := clickhouse.Open(t.Context(), "analytics", clickhouse.Config{URL: pipeline.NewSecret(address), Database: "shop"}, pipeline.Deps{Logger: slog.New(slog.DiscardHandler), Say: func(string) {}})
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	url := strings.TrimSuffix(address, "/") + "/?database=shop"
	db, err := sql.Open("clickhouse", url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var rows []string
	for i, p := range list {
		id := pipeline.HashID(fmt.Append(nil, p.customer))
		rows = append(rows, fmt.Sprintf("('m%d','track','Bought','%s','%s',%d.%02d)", i, p.at.Format(time.DateTime), id, p.cents/100, p.cents%100))
	}
	insert := "INSERT INTO events (message_id, type, event, time, primary_id, revenue) VALUES " + strings.Join(rows, ",") +
		",('nobody','track','Bought','2025-03-01 00:00:00','00000000-0000-0000-0000-000000000000',5),('late','track','Bought','2025-12-01 00:00:00','" + pipeline.HashID([]byte("late")).String() + "',5)"
	if _, err := db.ExecContext(t.Context(), insert); err != nil {
		t.Fatal(err)
	}
	return url
}

func TestScoreFitRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		file string
		args []string
		want string
	}{
		"nothing":      {"", nil, "name either a CSV file or --clickhouse"},
		"both":         {"customer,time\n", []string{"--clickhouse", "http://h"}, "name either a CSV file or --clickhouse"},
		"empty":        {"\n", nil, "the first line must name the columns"},
		"columns":      {"id,time\n1,2025-01-01\n", nil, "names the columns id, time; needed are customer and time"},
		"no customers": {"customer,time\n", nil, "there are no customers"},
		"all x 0":      {"customer,time\na,2025-01-01\nb,2025-01-03\n", nil, "no customer has a repeat purchase"},
		"time":         {"customer,time\na,soon\n", nil, "line 2: time is not a time"},
		"amount":       {"customer,time,amount\na,2025-01-01,1\na,2025-01-02,\n", nil, "line 3: amount is not a number"},
		"ragged":       {"customer,time,amount\na,2025-01-01\n", nil, "wrong number of fields"},
		"negative":     {"x,t_x,T\n1,-1,5\n", nil, "line 2: times must not be negative"},
		"NaN":          {"x,t_x,T\n1,NaN,5\n", nil, "line 2: t_x is not a number"},
		"converge":     {"x,t_x,T\n3,4,5\n", nil, "not converged"},
		"unit":         {"x,t_x,T\n3,4,5\n", []string{"--unit", "month"}, "write day or week"},
		"until":        {"x,t_x,T\n3,4,5\n", []string{"--until", "soon"}, "write a day such as"},
		"address":      {"", []string{"--clickhouse", "tcp://:hunter2@h"}, "is not the address of a ClickHouse"},
		"away":         {"", []string{"--clickhouse", "http://:hunter2@127.0.0.1:1/"}, "reach ClickHouse at 127.0.0.1:1"},
		"password":     {"", []string{"--clickhouse", "http://h", "--password-file", "nope"}, "read the password"},
	} {
		args := c.args
		if c.file != "" {
			args = append([]string{write(t, c.file)}, args...)
		}
		_, err := scoreFit(t, args...)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPurchaseTime(t *testing.T) {
	want := time.Date(2025, 3, 1, 0, 0, 0, 0, time.UTC)
	for _, text := range []string{"2025-03-01", "2025-03-01T00:00:00Z", "2025-03-01T01:00:00+01:00", "2025-03-01 00:00:00", "20250301", "2025/03/01", " 1740787200", "1740787200000"} {
		if got, ok := purchaseTime(text); !ok || !got.Equal(want) {
			t.Errorf("%q is %v", text, got)
		}
	}
	for _, text := range []string{"", "now", "01.03.2025", "12", "2025-02-30"} {
		if got, ok := purchaseTime(text); ok {
			t.Errorf("%q is %v", text, got)
		}
	}
}
