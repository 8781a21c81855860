package clv

import (
	"bufio"
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"
)

// published are the parameters of the paper, for CDNOW with 39 weeks of calibration.
var published = BGNBD{R: 0.243, Alpha: 4.414, A: 0.793, B: 2.426}

func near(t *testing.T, what string, got, want, tolerance float64) {
	t.Helper()
	if !(math.Abs(got-want) <= tolerance) {
		t.Errorf("%s is %.9g, want %.9g ± %g", what, got, want, tolerance)
	}
}

// TestPublishedCustomer: the paper computes one customer by hand.
func TestPublishedCustomer(t *testing.T) {
	h := History{X: 2, TX: 30.43, T: 38.86}
	near(t, "E[Y(39)]", published.Expected(h, 39), 1.226, 0.0005)
	near(t, "P(alive)", published.Alive(h), 0.7266, 0.0005)
	near(t, "P(alive) without a repeat", published.Alive(History{T: 38.86}), 1, 0)
}

// TestExpectedIsTheIntegral compares with the integral over the probability of leaving, by the midpoint rule in its logarithm.
func TestExpectedIsTheIntegral(t *testing.T) {
	for _, m := range []BGNBD{published, {R: 2, Alpha: 10, A: 1, B: 3}, {R: 2, Alpha: 10, A: 1 + 1e-9, B: 3}, {R: 0.5, Alpha: 1, A: 0.3, B: 0.7}, {R: 0.5, Alpha: 1, A: 0.5, B: 0.2}, {R: 30, Alpha: 3, A: 5, B: 200}} {
		for _, h := range []History{{T: 0}, {T: 5}, {X: 1, TX: 3, T: 5}, {X: 40, TX: 50, T: 50}, {X: 3000, TX: 200, T: 200.5}} {
			for _, d := range []float64{1e-9, 1, 52, 520} {
				s, u := m.R+h.X, d/(m.Alpha+h.T)
				beta := lgamma(m.A) + lgamma(m.B+h.X) - lgamma(m.A+m.B+h.X)
				const step = 0.01
				want := 0.0
				for v := -110.0; v < 110; v += step {
					p, q := 1/(1+math.Exp(-v)), 1/(1+math.Exp(v))
					want += step * math.Exp(m.A*math.Log(p)+(m.B+h.X)*math.Log(q)-beta) * -math.Expm1(-s*math.Log1p(p*u)) / p
				}
				want *= m.Alive(h)
				if got := m.Expected(h, d); math.Abs(got-want) > 1e-7*want {
					t.Errorf("%+v %+v t=%g: %.12g, the integral is %.12g", m, h, d, got, want)
				}
			}
		}
	}
}

// FuzzFinite: no valid input gives NaN, an infinity, a negative number or a probability above 1.
func FuzzFinite(f *testing.F) {
	f.Add(0.243, 4.414, 0.793, 2.426, 6.25, 15.44, uint32(2), 30.43, 38.86, 39.0, 35.0)
	f.Add(1e-6, 1e-6, 1e-6, 1e-6, 1e6, 1e6, uint32(0), 0.0, 0.0, 1e12, 0.0)
	f.Add(1e6, 1e-6, 1e-6, 1e6, 1e-6, 1e-6, uint32(1e9), 1e12, 1e12, 1e12, 1e12)
	f.Add(1e6, 1e6, 1e6, 1e-6, 1e-6, 1e6, uint32(1e9), 0.0, 1e12, 1e-300, 1e-300)
	f.Add(0.5, 1.0, 1.0, 0.2, 1.0, 1.0, uint32(70000), 1e-300, 100.0, 1e4, 1e-300)
	f.Fuzz(func(t *testing.T, r, alpha, a, b, p, v float64, x uint32, tx, observed, horizon, money float64) {
		m, g := BGNBD{r, alpha, a, b}, GammaGamma{p, 1 + math.Abs(a), v}
		h := History{X: float64(x), TX: tx, T: observed, M: money}
		if m.Valid() != nil || g.Valid() != nil || h.Valid() != nil || !(money >= 0 && money <= 1e12) || math.IsInf(horizon, 0) || math.IsNaN(horizon) {
			return
		}
		for what, y := range map[string]float64{"likelihood": m.LogLikelihood(h), "alive": m.Alive(h), "expected": m.Expected(h, horizon), "mean": g.Mean(h)} {
			if math.IsNaN(y) || math.IsInf(y, 0) || what != "likelihood" && y < 0 || what == "alive" && y > 1 {
				t.Errorf("%s is %g for %+v %+v %+v", what, y, m, g, h)
			}
		}
		if m.Expected(h, horizon) > m.Expected(h, 2*horizon)*(1+1e-9) {
			t.Errorf("more is expected in %g than in twice that: %+v %+v", horizon, m, h)
		}
		if h.X > 0 && money > 0 {
			if y := g.LogLikelihood(h); math.IsNaN(y) || math.IsInf(y, 0) {
				t.Errorf("likelihood is %g for %+v %+v", y, g, h)
			}
		}
	})
}

// TestFinite goes through the corners of the valid range, which a fuzzer may take long to find.
func TestFinite(t *testing.T) {
	extremes := []float64{MinParameter, 0.3, 1, 40, MaxParameter}
	for _, r := range extremes {
		for _, alpha := range extremes {
			for _, a := range extremes {
				for _, b := range extremes {
					m := BGNBD{r, alpha, a, b}
					for _, h := range []History{{}, {T: maxTime}, {X: 1}, {X: maxX, T: 1}, {X: maxX, TX: maxTime, T: maxTime}} {
						for _, d := range []float64{0, 1e-300, 1} {
							if e, l, p := m.Expected(h, d), m.LogLikelihood(h), m.Alive(h); !(e >= 0 && e < math.MaxFloat64) || math.IsNaN(l) || math.IsInf(l, 0) || !(p >= 0 && p <= 1) {
								t.Fatalf("%+v %+v t=%g: expected %g, likelihood %g, alive %g", m, h, d, e, l, p)
							}
						}
					}
				}
			}
		}
	}
}

// TestFitFindsWhatMadeTheData: customers are made by the two models, and the fit must find the parameters again.
func TestFitFindsWhatMadeTheData(t *testing.T) {
	model, money := BGNBD{R: 0.6, Alpha: 4, A: 0.8, B: 2.5}, GammaGamma{P: 6, Q: 4, V: 15}
	customers := made(3000, model, money)
	evaluations := 0
	m, fit, err := FitBGNBD(context.Background(), customers, func(n int) { evaluations = n })
	if err != nil {
		t.Fatal(err)
	}
	near(t, "r", m.R, model.R, 0.08)
	near(t, "alpha", m.Alpha, model.Alpha, 0.6)
	near(t, "a/(a+b)", m.A/(m.A+m.B), model.A/(model.A+model.B), 0.03)
	truth := 0.0
	for _, h := range customers {
		truth += model.LogLikelihood(h)
	}
	if fit.LogLikelihood < truth || fit.Customers != len(customers) || fit.Evaluations < 50 || evaluations < 50 {
		t.Errorf("likelihood %.3f, of the true parameters %.3f: %+v", fit.LogLikelihood, truth, fit)
	}
	g, fit, err := FitGammaGamma(context.Background(), customers, nil)
	if err != nil {
		t.Fatal(err)
	}
	near(t, "mean of the population", g.P*g.V/(g.Q-1), 30, 1)
	if truth = 0; fit.Customers == 0 || fit.Customers >= len(customers) {
		t.Errorf("%+v", fit)
	}
	for _, h := range customers {
		if h.X > 0 {
			truth += money.LogLikelihood(h)
		}
	}
	if fit.LogLikelihood < truth {
		t.Errorf("likelihood %.3f, of the true parameters %.3f", fit.LogLikelihood, truth)
	}

	// Another unit changes alpha and nothing else.
	days := make([]History, len(customers))
	for i, h := range customers {
		days[i] = History{X: h.X, TX: 7 * h.TX, T: 7 * h.T}
	}
	again, _, err := FitBGNBD(context.Background(), days, nil)
	if err != nil {
		t.Fatal(err)
	}
	near(t, "alpha in days", again.Alpha, 7*m.Alpha, 0.01)
	near(t, "r in days", again.R, m.R, 0.001)
}

// made simulates customers over 40 units of time.
func made(n int, m BGNBD, g GammaGamma) []History {
	random := rand.New(rand.NewPCG(11, 12))
	customers := make([]History, n)
	for i := range customers {
		rate := gamma(random, m.R) / m.Alpha
		leave := gamma(random, m.A)
		leave /= leave + gamma(random, m.B)
		scale := gamma(random, g.Q) / g.V
		h := History{T: 40 - 12*random.Float64()}
		spent := 0.0
		for at := random.ExpFloat64() / rate; at < h.T; at += random.ExpFloat64() / rate {
			h.X, h.TX = h.X+1, at
			spent += gamma(random, g.P) / scale
			if random.Float64() < leave {
				break
			}
		}
		if h.X > 0 {
			h.M = spent / h.X
		}
		customers[i] = h
	}
	return customers
}

// gamma draws from a gamma distribution with scale 1: Marsaglia and Tsang, 2000.
func gamma(random *rand.Rand, shape float64) float64 {
	if shape < 1 {
		return gamma(random, shape+1) * math.Pow(random.Float64(), 1/shape)
	}
	d := shape - 1.0/3
	for {
		z := random.NormFloat64()
		v := math.Pow(1+z/math.Sqrt(9*d), 3)
		if v > 0 && math.Log(random.Float64()) < z*z/2+d-d*v+d*math.Log(v) {
			return d * v
		}
	}
}

func TestFitRefuses(t *testing.T) {
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	for name, c := range map[string]struct {
		ctx       context.Context
		customers []History
		want      string
	}{
		"nobody":    {nil, nil, "no customers"},
		"no repeat": {nil, []History{{T: 1}, {T: 2}}, "all x are 0"},
		"negative":  {nil, []History{{X: 1, TX: -1, T: 2}}, "customer 1: times must not be negative"},
		"NaN":       {nil, []History{{T: 1}, {X: 1, TX: math.NaN(), T: 2}}, "customer 2: times must not be negative"},
		"after T":   {nil, []History{{X: 1, TX: 3, T: 2}}, "after T"},
		"half":      {nil, []History{{X: 0.5, T: 2}}, "whole number"},
		"x 0":       {nil, []History{{TX: 1, T: 2}}, "where x is 0"},
		"no time":   {nil, []History{{X: 1}}, "all T are 0"},
		"one":       {nil, []History{{X: 3, TX: 4, T: 5}}, "not converged"},
		"cancelled": {cancelled, made(200, published, GammaGamma{2, 2, 2}), "canceled"},
	} {
		if c.ctx == nil {
			c.ctx = context.Background()
		}
		_, _, err := FitBGNBD(c.ctx, c.customers, nil)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, c := range map[string]struct {
		customers []History
		want      string
	}{
		"nobody":    {nil, "no customers"},
		"no repeat": {[]History{{T: 1}}, "all x are 0"},
		"no money":  {[]History{{X: 1, T: 1}}, "above 0"},
		"all alike": {[]History{{X: 1, T: 1, M: 3}, {X: 1, T: 1, M: 3}}, "not converged"},
	} {
		_, _, err := FitGammaGamma(context.Background(), c.customers, nil)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := FitBGNBD(context.Background(), []History{{T: 1}}, nil); !errors.Is(err, ErrNoRepeats) {
		t.Error(err)
	}
}

// TestCDNOW fits the data of the papers, CDNOW_sample.txt (lines: two customer numbers, day, number of CDs, dollars), which lies
// beside the repository.
func TestCDNOW(t *testing.T) {
	path := "../../../../shared/data/cdnow/CDNOW_sample.txt"
	if _, err := os.Stat(path); err != nil {
		t.Skip("needs ../shared/data: cdnow")
	}
	customers := cdnow(t, path)
	m, fit, err := FitBGNBD(context.Background(), customers, nil)
	if err != nil {
		t.Fatal(err)
	}
	near(t, "customers", float64(fit.Customers), 2357, 0)
	near(t, "log-likelihood", fit.LogLikelihood, -9582.4, 0.05)
	near(t, "r", m.R, 0.243, 0.0005)
	near(t, "alpha", m.Alpha, 4.414, 0.0005)
	near(t, "a", m.A, 0.793, 0.0005)
	near(t, "b", m.B, 2.426, 0.0005)
	g, fit, err := FitGammaGamma(context.Background(), customers, nil)
	if err != nil {
		t.Fatal(err)
	}
	near(t, "customers with a repeat", float64(fit.Customers), 946, 0)
	near(t, "p", g.P, 6.25, 0.01)
	near(t, "q", g.Q, 3.74, 0.01)
	near(t, "v", g.V, 15.44, 0.02)
}

func cdnow(t *testing.T, path string) []History {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	end := time.Date(1997, 9, 30, 0, 0, 0, 0, time.UTC)
	type day struct {
		at    time.Time
		spent float64
	}
	days := map[string][]day{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		at, err := time.Parse("20060102", fields[2])
		if err != nil {
			t.Fatal(err)
		}
		spent, err := strconv.ParseFloat(fields[4], 64)
		if err != nil {
			t.Fatal(err)
		}
		list := days[fields[0]]
		switch {
		case at.After(end):
		case len(list) > 0 && list[len(list)-1].at.Equal(at):
			list[len(list)-1].spent += spent
		default:
			days[fields[0]] = append(list, day{at, spent})
		}
	}
	names := make([]string, 0, len(days))
	for name := range days {
		names = append(names, name)
	}
	sort.Strings(names)
	const week = 7 * 24 * time.Hour
	var customers []History
	for _, name := range names {
		list := days[name]
		h := History{X: float64(len(list) - 1), TX: float64(list[len(list)-1].at.Sub(list[0].at)) / float64(week), T: float64(end.Sub(list[0].at)) / float64(week)}
		for _, d := range list[1:] {
			h.M += d.spent / h.X
		}
		customers = append(customers, h)
	}
	return customers
}
