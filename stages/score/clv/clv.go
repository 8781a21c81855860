// Package clv is customer lifetime value from purchase histories: the BG/NBD model says whether a customer is still one and how
// often they will buy, the Gamma-Gamma model what they will spend. Functions are pure and finite for every valid input.
//
// Sources: P. Fader, B. Hardie, K. L. Lee, "Counting Your Customers" the Easy Way, Marketing Science 24 (2005), equations 6
// and 10; P. Fader, B. Hardie, The Gamma-Gamma Model of Monetary Value (2013), equations 1a and 5.
//
// A transaction is a period (a day) with at least one purchase: the papers count so, and so must whoever applies what was
// fitted.
package clv

import (
	"errors"
	"fmt"
	"math"
)

// History is one customer's purchases. Times are counted in one unit of the caller's choice, such as weeks, from the first
// purchase.
type History struct {
	X  float64 // repeat transactions, without the first: 0, 1, 2, …
	TX float64 // time of the last transaction, 0 if X is 0
	T  float64 // time until which the customer was observed, at least TX
	M  float64 // average value of the repeat transactions; only Gamma-Gamma reads it, above 0 where X is
}

// maxX bounds transactions, and maxTime times: beyond, the input is a mistake.
const (
	maxX    = 1e9
	maxTime = 1e12
)

// Valid tells what is wrong with a history, nil if nothing is. M is not looked at.
func (h History) Valid() error {
	switch {
	case !(h.X >= 0 && h.X <= maxX) || h.X != math.Trunc(h.X):
		return errors.New("x must be a whole number, 0 or more")
	case !(h.TX >= 0 && h.TX <= maxTime) || !(h.T >= 0 && h.T <= maxTime):
		return errors.New("times must not be negative")
	case h.TX > h.T:
		return errors.New("t_x lies after T: the last purchase is outside the time of observation")
	case h.X == 0 && h.TX > 0:
		return errors.New("t_x must be 0 where x is 0: it is the time of the last repeat purchase")
	}
	return nil
}

// Limits of all parameters: beyond them they say that the data does not determine them.
const (
	MinParameter = 1e-6
	MaxParameter = 1e6
)

// BGNBD are the parameters of the BG/NBD model. While a customer is one they buy at a rate from a gamma distribution (R,
// Alpha), and leave after each purchase with a probability from a beta distribution (A, B). Alpha has the unit of the times.
type BGNBD struct {
	R     float64 `yaml:"r" json:"r"`
	Alpha float64 `yaml:"alpha" json:"alpha"`
	A     float64 `yaml:"a" json:"a"`
	B     float64 `yaml:"b" json:"b"`
}

// Valid tells which parameter is out of range, nil if none is.
func (m BGNBD) Valid() error {
	return inRange([]string{"r", "alpha", "a", "b"}, []float64{m.R, m.Alpha, m.A, m.B})
}

func inRange(names []string, values []float64) error {
	for i, v := range values {
		if !(v >= MinParameter && v <= MaxParameter) {
			return fmt.Errorf("%s must be a number from %g to %g", names[i], MinParameter, MaxParameter)
		}
	}
	return nil
}

// LogLikelihood of one customer: equation 6, in logarithms.
func (m BGNBD) LogLikelihood(h History) float64 {
	a1 := lgamma(m.R+h.X) - lgamma(m.R) + m.R*math.Log(m.Alpha)
	a2 := lgamma(m.A+m.B) + lgamma(m.B+h.X) - lgamma(m.B) - lgamma(m.A+m.B+h.X)
	return a1 + a2 + m.timing(h)
}

// timing is the part of the log-likelihood that depends on the times: ln(A3 + A4).
func (m BGNBD) timing(h History) float64 {
	s := m.R + h.X
	a3 := -s * math.Log(m.Alpha+h.T)
	if h.X == 0 {
		return a3
	}
	a4 := math.Log(m.A) - math.Log(m.B+h.X-1) - s*math.Log(m.Alpha+h.TX)
	return math.Max(a3, a4) + math.Log1p(math.Exp(-math.Abs(a3-a4)))
}

// Alive is the probability that the customer still is one at T, 0 … 1. Without a repeat purchase it is 1: the model lets
// customers leave only after one.
func (m BGNBD) Alive(h History) float64 {
	if h.X == 0 {
		return 1
	}
	left := math.Log(m.A) - math.Log(m.B+h.X-1) + (m.R+h.X)*(math.Log(m.Alpha+h.T)-math.Log(m.Alpha+h.TX))
	return 1 / (1 + math.Exp(left))
}

// maxExpected bounds the purchases that Expected counts, and so its time.
const maxExpected = 10_000

// Expected is the expected number of transactions in the time t after T: equation 10. Beyond 10,000 it is a lower bound.
//
// The paper's form, with a hypergeometric function, loses all digits near a = 1 and has a pole at a+b+x = 1. This is the same
// after expanding the function in the probability q of staying: the sum over k of P(N > k) E[q^k], where N, the purchases of
// one who never leaves, is negative binomial. All terms are positive.
func (m BGNBD) Expected(h History, t float64) float64 {
	if !(t > 0) {
		return 0
	}
	t = min(t, maxTime)
	s, u := m.R+h.X, t/(m.Alpha+h.T)
	z := t / (m.Alpha + h.T + t)
	logMass := -s * math.Log1p(u) // ln P(N = k)
	mass, tail := math.Exp(logMass), -math.Expm1(logMass)
	total, stays := 0.0, 1.0 // stays is E[q^k]
	for k := 0.0; k < maxExpected; k++ {
		total += tail * stays
		stays *= (m.B + h.X + k) / (m.A + m.B + h.X + k)
		ratio := z * (s + k) / (k + 1)
		if logMass < -690 { // the first masses may be too small for a float although later ones are not
			logMass += math.Log(ratio)
			mass = math.Exp(logMass)
		} else {
			mass *= ratio
		}
		tail = math.Max(tail-mass, 0)
		if rest := z * (s + k + 1) / (k + 2); rest < 1 && mass*rest < 1e-16*total*(1-rest)*(1-rest) {
			break
		}
	}
	return total * m.Alive(h)
}

// GammaGamma are the parameters of the Gamma-Gamma model of what a transaction is worth. V has the unit of the money.
type GammaGamma struct {
	P float64 `yaml:"p" json:"p"`
	Q float64 `yaml:"q" json:"q"`
	V float64 `yaml:"v" json:"v"`
}

// Valid tells which parameter is out of range, nil if none is.
func (m GammaGamma) Valid() error {
	if err := inRange([]string{"p", "q", "v"}, []float64{m.P, m.Q, m.V}); err != nil {
		return err
	}
	if m.Q <= 1 {
		return errors.New("q must be above 1: below, the average customer has no expected value")
	}
	return nil
}

// LogLikelihood of one customer with repeat transactions: equation 1a. X and M must be above 0.
func (m GammaGamma) LogLikelihood(h History) float64 {
	px := m.P * h.X
	return lgamma(px+m.Q) - lgamma(px) - lgamma(m.Q) + m.Q*math.Log(m.V) + (px-1)*math.Log(h.M) + px*math.Log(h.X) - (px+m.Q)*math.Log(m.V+h.X*h.M)
}

// Mean is what a transaction of the customer is expected to be worth: equation 5, the average of all customers and the
// customer's own, weighted by how much is known of them. Without repeat transactions, or with an average that is not above 0, it
// is that of all customers.
func (m GammaGamma) Mean(h History) float64 {
	own := 0.0
	if h.X > 0 && h.M > 0 {
		own = h.X
	}
	population := m.P * m.V / (m.Q - 1)
	weight := m.P * own / (m.P*own + m.Q - 1)
	if own == 0 {
		return population
	}
	return (1-weight)*population + weight*h.M
}

func lgamma(x float64) float64 {
	v, _ := math.Lgamma(x)
	return v
}
