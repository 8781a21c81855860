package clv

import (
	"context"
	"errors"
	"fmt"
	"math"

	"gonum.org/v1/gonum/optimize"
)

// Fit says what a fit found.
type Fit struct {
	LogLikelihood float64 `json:"log_likelihood"`
	Customers     int     `json:"n"`
	Evaluations   int     `json:"evaluations"` // of the likelihood of all customers
}

// ErrNoRepeats says that no customer bought twice: then nothing can be said about the next purchase.
var ErrNoRepeats = errors.New("no customer has a repeat purchase (all x are 0)")

// maxEvaluations bounds a fit. Nelder-Mead needs some hundreds.
const maxEvaluations = 4000

// FitBGNBD finds the parameters of the largest likelihood. Progress, if set, is told the number of evaluations so far, after each.
// It ends with ctx's error when that is done.
func FitBGNBD(ctx context.Context, customers []History, progress func(evaluations int)) (BGNBD, Fit, error) {
	scale, most := 0.0, 0.0
	for i, h := range customers {
		if err := h.Valid(); err != nil {
			return BGNBD{}, Fit{}, fmt.Errorf("customer %d: %w", i+1, err)
		}
		scale += h.T / float64(len(customers))
		most = max(most, h.X)
	}
	switch {
	case len(customers) == 0:
		return BGNBD{}, Fit{}, errors.New("there are no customers")
	case most == 0:
		return BGNBD{}, Fit{}, ErrNoRepeats
	case scale == 0:
		return BGNBD{}, Fit{}, errors.New("all T are 0: nobody was observed after the first purchase")
	}
	// With the average T as the unit, one start suits data in days and in years.
	counts := map[float64]float64{}
	scaled := make([]History, len(customers))
	for i, h := range customers {
		counts[h.X]++
		scaled[i] = History{X: h.X, TX: h.TX / scale, T: h.T / scale}
	}
	negative := func(v []float64) float64 {
		m := BGNBD{v[0], v[1], v[2], v[3]}
		total := float64(len(scaled)) * (m.R*math.Log(m.Alpha) - lgamma(m.R) + lgamma(m.A+m.B) - lgamma(m.B))
		for x, n := range counts { // gamma functions cost most, and depend on x alone
			total += n * (lgamma(m.R+x) + lgamma(m.B+x) - lgamma(m.A+m.B+x))
		}
		for _, h := range scaled {
			total += m.timing(h)
		}
		return -total
	}
	v, fit, err := minimize(ctx, []string{"r", "alpha", "a", "b"}, []float64{1, 1, 1, 1}, negative, progress)
	m := BGNBD{v[0], v[1] * scale, v[2], v[3]}
	if err == nil {
		if err = m.Valid(); err != nil {
			err = fmt.Errorf("the fit is of no use: %w", err)
		}
	}
	fit.Customers, fit.LogLikelihood = len(customers), 0
	for _, h := range customers {
		fit.LogLikelihood += m.LogLikelihood(h)
	}
	return m, fit, err
}

// FitGammaGamma finds the parameters of the largest likelihood from the customers with repeat transactions; the others say
// nothing and are not counted. Progress is as for FitBGNBD.
func FitGammaGamma(ctx context.Context, customers []History, progress func(evaluations int)) (GammaGamma, Fit, error) {
	repeat, scale := []History(nil), 0.0
	for i, h := range customers {
		if err := h.Valid(); err != nil {
			return GammaGamma{}, Fit{}, fmt.Errorf("customer %d: %w", i+1, err)
		}
		if h.X == 0 {
			continue
		}
		if !(h.M > 0 && h.M <= maxTime) {
			return GammaGamma{}, Fit{}, fmt.Errorf("customer %d: the average value of the repeat purchases must be above 0", i+1)
		}
		repeat = append(repeat, h)
		scale += h.M
	}
	switch {
	case len(customers) == 0:
		return GammaGamma{}, Fit{}, errors.New("there are no customers")
	case len(repeat) == 0:
		return GammaGamma{}, Fit{}, ErrNoRepeats
	}
	scale /= float64(len(repeat))
	scaled := make([]History, len(repeat))
	for i, h := range repeat {
		scaled[i] = History{X: h.X, M: h.M / scale}
	}
	negative := func(v []float64) float64 {
		m := GammaGamma{v[0], v[1], v[2]}
		total := 0.0
		for _, h := range scaled {
			total += m.LogLikelihood(h)
		}
		return -total
	}
	v, fit, err := minimize(ctx, []string{"p", "q", "v"}, []float64{2, 2, 1}, negative, progress)
	m := GammaGamma{v[0], v[1], v[2] * scale}
	if err == nil {
		if err = m.Valid(); err != nil {
			err = fmt.Errorf("the fit is of no use: %w", err)
		}
	}
	fit.Customers, fit.LogLikelihood = len(repeat), 0
	for _, h := range repeat {
		fit.LogLikelihood += m.LogLikelihood(h)
	}
	return m, fit, err
}

// minimize searches positive parameters, on a logarithmic scale, from a start.
func minimize(ctx context.Context, names []string, start []float64, f func([]float64) float64, progress func(int)) ([]float64, Fit, error) {
	fit := Fit{}
	values := make([]float64, len(start))
	at := func(logs []float64) float64 {
		outside := 0.0 // a wall that leads back
		for i, l := range logs {
			in := min(max(l, math.Log(MinParameter)), math.Log(MaxParameter))
			outside += math.Abs(l - in)
			values[i] = math.Exp(in)
		}
		fit.Evaluations++
		if progress != nil {
			progress(fit.Evaluations)
		}
		y := f(values)
		if math.IsNaN(y) {
			y = math.MaxFloat64
		}
		return y * (1 + math.Copysign(outside, y))
	}
	logs := make([]float64, len(start))
	for i, v := range start {
		logs[i] = math.Log(v)
	}
	problem := optimize.Problem{Func: at, Status: func() (optimize.Status, error) {
		if err := ctx.Err(); err != nil {
			return optimize.Failure, err
		}
		return optimize.NotTerminated, nil
	}}
	// A simplex may fold up before it is there: what a second one, around its result, cannot better is a result.
	converged, best := false, math.Inf(1)
	for !converged && fit.Evaluations < maxEvaluations {
		settings := optimize.Settings{FuncEvaluations: maxEvaluations - fit.Evaluations, Converger: &optimize.FunctionConverge{Relative: 1e-12, Absolute: 1e-12, Iterations: 40}}
		result, err := optimize.Minimize(problem, logs, &settings, &optimize.NelderMead{})
		if ctx.Err() != nil {
			return start, fit, ctx.Err()
		}
		if err != nil {
			return start, fit, fmt.Errorf("search the largest likelihood: %w", err)
		}
		converged = result.Status != optimize.FunctionEvaluationLimit && best-result.F < 1e-8*(1+math.Abs(result.F))
		best = min(best, result.F)
		copy(logs, result.X)
	}
	at(logs) // fills values
	if !converged {
		return values, fit, fmt.Errorf("the search has not converged after %d evaluations: is there enough data?", fit.Evaluations)
	}
	for i, v := range values {
		if v <= MinParameter*1.01 || v >= MaxParameter/1.01 {
			return values, fit, fmt.Errorf("the search has not converged: %s runs to %g, so the data does not determine it (too few customers, or all alike)", names[i], v)
		}
	}
	return values, fit, nil
}
