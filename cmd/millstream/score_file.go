package main

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millstream-io/millstream/stages/score/clv"
)

// historiesFromFile reads a CSV file of purchases or of histories, and tells whether it has money in it.
func historiesFromFile(path string, o fitOptions, unit time.Duration, until time.Time) (_ []clv.History, money bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, false, &exitError{exitUsage, err}
	}
	defer f.Close()
	customers, money, err := readHistories(f, o, unit, until)
	if err != nil {
		return nil, false, &exitError{exitCheckFailed, fmt.Errorf("%s: %w", path, err)}
	}
	return customers, money, nil
}

func readHistories(r io.Reader, o fitOptions, unit time.Duration, until time.Time) ([]clv.History, bool, error) {
	buffered := bufio.NewReader(r)
	if start, _ := buffered.Peek(3); bytes.Equal(start, []byte("\xef\xbb\xbf")) { // as spreadsheets write it
		_, _ = buffered.Discard(3)
	}
	rows := csv.NewReader(buffered)
	rows.Comma, rows.ReuseRecord = separator(buffered), true
	header, err := rows.Read()
	if errors.Is(err, io.EOF) {
		return nil, false, errors.New("the file is empty: the first line must name the columns")
	} else if err != nil {
		return nil, false, err
	}
	columns := map[string]int{}
	names := slices.Clone(header)
	for i, name := range names {
		names[i] = strings.TrimSpace(name)
		if _, twice := columns[names[i]]; !twice {
			columns[names[i]] = i
		}
	}
	has := func(name string) bool { _, ok := columns[name]; return ok }
	switch {
	case has("x") && has("t_x") && has("T"):
		return readReady(rows, columns)
	case has(o.customer) && has(o.time):
		return readPurchases(rows, columns, o, unit, until)
	}
	return nil, false, fmt.Errorf("the first line names the columns %s; needed are %s and %s (say which with --customer and --time), or x, t_x and T",
		strings.Join(names, ", "), o.customer, o.time)
}

// separator guesses from the first line, which names columns.
func separator(r *bufio.Reader) rune {
	start, _ := r.Peek(4096)
	line, _, _ := bytes.Cut(start, []byte("\n"))
	for _, c := range ",;\t|" {
		if bytes.ContainsRune(line, c) {
			return c
		}
	}
	return ','
}

// readReady reads histories as the papers write them.
func readReady(rows *csv.Reader, columns map[string]int) ([]clv.History, bool, error) {
	var customers []clv.History
	_, money := columns["m"]
	for {
		row, err := rows.Read()
		if errors.Is(err, io.EOF) {
			return customers, money, nil
		} else if err != nil {
			return nil, false, err
		}
		line, _ := rows.FieldPos(0)
		h := clv.History{}
		for name, to := range map[string]*float64{"x": &h.X, "t_x": &h.TX, "T": &h.T, "m": &h.M} {
			i, ok := columns[name]
			if !ok {
				continue
			}
			if *to, ok = number(row[i]); !ok {
				return nil, false, fmt.Errorf("line %d: %s is not a number", line, name)
			}
		}
		if err := h.Valid(); err != nil {
			return nil, false, fmt.Errorf("line %d: %w", line, err)
		}
		customers = append(customers, h)
	}
}

func number(text string) (float64, bool) {
	v, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	return v, err == nil && !math.IsNaN(v) && !math.IsInf(v, 0)
}

// spent is the value of each day on which a customer bought, by days since 1970.
type spent map[int64]float64

func readPurchases(rows *csv.Reader, columns map[string]int, o fitOptions, unit time.Duration, until time.Time) ([]clv.History, bool, error) {
	amount, money := columns[o.amount]
	customers := map[string]spent{}
	last := int64(math.MinInt64)
	for {
		row, err := rows.Read()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, false, err
		}
		line, _ := rows.FieldPos(0)
		id := strings.TrimSpace(row[columns[o.customer]])
		if id == "" { // a purchase of nobody says nothing about a customer
			continue
		}
		at, ok := purchaseTime(row[columns[o.time]])
		if !ok {
			return nil, false, fmt.Errorf("line %d: %s is not a time: write 2026-03-01, 2026-03-01T10:00:00Z, 20260301 or Unix seconds", line, o.time)
		}
		value := 0.0
		if money {
			if value, ok = number(row[amount]); !ok {
				return nil, false, fmt.Errorf("line %d: %s is not a number", line, o.amount)
			}
		}
		day := dayOf(at)
		if !until.IsZero() && day > dayOf(until) {
			continue
		}
		last = max(last, day)
		if customers[id] == nil {
			customers[strings.Clone(id)] = spent{}
		}
		customers[id][day] += value
	}
	if !until.IsZero() {
		last = dayOf(until)
	}
	histories := make([]clv.History, 0, len(customers))
	for _, days := range customers {
		histories = append(histories, days.history(last, unit))
	}
	// Maps have no order, sums of floats one: the same file gives the same digits.
	slices.SortFunc(histories, compareHistories)
	return histories, money, nil
}

func (days spent) history(last int64, unit time.Duration) clv.History {
	from, to, total := int64(math.MaxInt64), int64(math.MinInt64), 0.0
	order := make([]int64, 0, len(days))
	for day := range days {
		from, to = min(from, day), max(to, day)
		order = append(order, day)
	}
	slices.Sort(order)
	for _, day := range order[1:] {
		total += days[day]
	}
	inUnits := func(n int64) float64 { return float64(n) * float64(24*time.Hour) / float64(unit) }
	h := clv.History{X: float64(len(days) - 1), TX: inUnits(to - from), T: inUnits(last - from)}
	if h.X > 0 {
		h.M = total / h.X
	}
	return h
}

func compareHistories(a, b clv.History) int {
	return slices.Compare([]float64{a.X, a.TX, a.T, a.M}, []float64{b.X, b.TX, b.T, b.M})
}

func dayOf(t time.Time) int64 { return int64(math.Floor(float64(t.Unix()) / 86400)) }

// purchaseTime reads the usual forms. Times without a zone are UTC.
func purchaseTime(text string) (time.Time, bool) {
	text = strings.TrimSpace(text)
	for _, form := range []string{time.DateOnly, time.RFC3339Nano, time.DateTime, "2006-01-02T15:04:05", "20060102", "2006/01/02"} {
		if t, err := time.Parse(form, text); err == nil {
			return t, true
		}
	}
	if seconds, err := strconv.ParseInt(text, 10, 64); err == nil && seconds > 0 {
		switch len(text) {
		case 9, 10:
			return time.Unix(seconds, 0), true
		case 12, 13:
			return time.UnixMilli(seconds), true
		}
	}
	return time.Time{}, false
}
