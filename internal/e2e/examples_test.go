package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestExampleFileImport runs examples/file-import from the top of a copy of the repository, as its README says, and asks
// the README's questions.
func TestExampleFileImport(t *testing.T) {
	needEngine(t)
	examples, err := filepath.Abs("../../examples")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	if err := os.CopyFS("examples", os.DirFS(examples)); err != nil {
		t.Fatal(err)
	}
	const data = ".millstream/orders"
	p := launch(t, nil, "run", "examples/file-import/pipeline.yaml")
	p.answers(t, data, patience, map[string]string{
		"SELECT identifiers['user_id'][1], aggregates['orders'], aggregates['revenue'], aggregates['products'], segments FROM people ORDER BY 1": "17\t2\t39.5\t2\t[]\n42\t3\t90.4\t3\t['regular']\n8\t2\t7.5\t2\t[]",
		"SELECT message_id, properties['Quantity'], revenue FROM events WHERE user_id IN ('', '8') ORDER BY message_id":                          "export/1005\t1\t2\nexport/1007\t2\t7.5\nexport/1008\tone\t0",
		"SELECT code, reason, payload FROM dead_letters": "row_cells\tthe row has another number of cells (5) than the table has columns (6)\t1009,2026-03-07 13:30,17,Tray,1",
	})
	eventually(t, func() error {
		lines, err := fileLines(".millstream/orders-out")
		if err == nil && (len(lines) != 1 || !strings.Contains(lines[0], `"segment":"regular"`)) {
			err = fmt.Errorf("the file sink has %d lines", len(lines))
		}
		return err
	})
	p.stop()
}
