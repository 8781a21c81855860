package e2e

import (
	"encoding/csv"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const recordsPipeline = `
pipeline: records
sources:
  febrl:
    file:
      path: "${FEBRL}/dataset3.csv"
      columns: [rec_id, given_name, surname, street_number, address_1, address_2, suburb, postcode, state, date_of_birth, soc_sec_id]
      header: true
      set: {type: identify}
      map: {user_id: rec_id}
  splink:
    file:
      path: "${SPLINK}/fake_1000.csv"
      set: {type: identify}
      map: {user_id: unique_id}
stages:
  - clean
  - dedup
  - identity:
      ids:
        - soc_sec_id: {from: [traits.soc_sec_id]}
        - email: {}
        - user_id: {}
sinks:
  analytics: {clickhouse: {url: embedded}}
`

// TestRecordsOfPeopleAreStitched loads two public sets of records about the same people, with typing errors, and compares the
// pairs that become one person with the truth that the sets bring: what two records state together is never wrong here.
func TestRecordsOfPeopleAreStitched(t *testing.T) {
	t.Parallel()
	needEngine(t)
	febrl, splink := shared(t, "febrl"), shared(t, "splink")
	data := t.TempDir()
	p := start(t, write(t, recordsPipeline), data, "FEBRL="+febrl, "SPLINK="+splink)
	p.answers(t, data, loading, map[string]string{
		"SELECT source, count(), uniqExact(user_id) FROM events GROUP BY source ORDER BY source": "febrl\t5000\t5000\nsplink\t1000\t1000",
		"SELECT count() FROM dead_letters": "0",
	})
	for _, set := range []struct {
		source, file, record, key string
		person                    func(row map[string]string) string
		recall                    string // of exact agreement, over all pairs
	}{
		{"febrl", filepath.Join(febrl, "dataset3.csv"), "rec_id", "soc_sec_id", func(row map[string]string) string { return strings.Split(row["rec_id"], "-")[1] }, "0.86"},
		{"splink", filepath.Join(splink, "fake_1000.csv"), "unique_id", "email", func(row map[string]string) string { return row["cluster"] }, "0.34"},
	} {
		truth, exact := map[string]string{}, map[string]string{}
		for _, row := range readTable(t, set.file) {
			id := row[set.record]
			truth[id], exact[id] = set.person(row), strings.ToLower(row[set.key])
			if exact[id] == "" {
				exact[id] = "nothing to go by: " + id
			}
		}
		eventually(t, func() error { // the last ones to merge
			answer, err := p.clickhouse(data, "SELECT user_id, person_id FROM person_events WHERE source = '"+set.source+"'")
			if err != nil {
				return err
			}
			found := map[string]string{}
			for line := range strings.Lines(answer) {
				user, person, _ := strings.Cut(strings.TrimSpace(line), "\t")
				found[user] = person
			}
			precision, recall := pairs(truth, found)
			if p, r := pairs(exact, found); p != 1 || r != 1 {
				return fmt.Errorf("%s: of the pairs found %.4f agree exactly, and %.4f of those that agree were found", set.source, p, r)
			}
			if r := fmt.Sprintf("%.2f", recall); precision != 1 || r != set.recall {
				t.Errorf("%s: precision %.4f, recall %s, want 1 and %s", set.source, precision, r, set.recall)
			}
			return nil
		})
	}
	p.stop()
}

// readTable reads the rows of a CSV file by the names in its header.
func readTable(t *testing.T, path string) (rows []map[string]string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := csv.NewReader(f)
	r.TrimLeadingSpace = true
	all, err := r.ReadAll()
	if err != nil || len(all) == 0 {
		t.Fatalf("%s: %v", path, err)
	}
	for _, line := range all[1:] {
		row := map[string]string{}
		for i, cell := range line {
			row[strings.TrimSpace(all[0][i])] = strings.TrimSpace(cell)
		}
		rows = append(rows, row)
	}
	return rows
}

// pairs is the precision and the recall of a partition over all pairs of its records.
func pairs(truth, found map[string]string) (precision, recall float64) {
	count := func(group func(record string) string) (n float64) {
		sizes := map[string]float64{}
		for record := range truth {
			sizes[group(record)]++
		}
		for _, size := range sizes {
			n += size * (size - 1) / 2
		}
		return n
	}
	right := count(func(r string) string { return truth[r] + " " + found[r] })
	return right / count(func(r string) string { return found[r] }), right / count(func(r string) string { return truth[r] })
}
