package testenv

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed" // the list of digests
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// kafkaVersion is the Apache Kafka that tests run against.
const kafkaVersion = "4.3.1"

// kafkaDigests lists the SHA-256 of every jar, as sha256sum writes it. A new version needs a new list.
//
//go:embed kafka-4.3.1.sha256
var kafkaDigests string

const kafkaPOM = `<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>millstream.test</groupId>
  <artifactId>kafka-broker</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_2.13</artifactId>
      <version>` + kafkaVersion + `</version>
    </dependency>
  </dependencies>
</project>
`

const copyDependencies = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"

// kafkaJars returns the folder of the broker's jars: from the user's cache, or fetched into it by Maven, once.
func kafkaJars() (string, error) {
	if err := checkJava(); err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", missing{"no cache folder: " + err.Error()}
	}
	dir := filepath.Join(cache, "millstream", "kafka", kafkaVersion)
	switch err := checkJars(dir); {
	case err == nil:
		return dir, nil
	case !errors.Is(err, os.ErrNotExist):
		if err := os.RemoveAll(dir); err != nil { // damaged, or of another list
			return "", err
		}
	}
	if err := fetchJars(dir); err != nil {
		return "", err
	}
	return dir, nil
}

func checkJava() error {
	out, err := exec.Command("java", "-version").CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		return missing{"no java on the PATH"}
	}
	found := regexp.MustCompile(`version "(\d+)`).FindSubmatch(out)
	if err != nil || found == nil {
		return missing{"java -version does not work"}
	}
	if v, _ := strconv.Atoi(string(found[1])); v < 17 {
		return missing{"java " + string(found[1]) + ", wants 17 or later"}
	}
	return nil
}

// fetchJars resolves into a folder beside dir and moves it there when it is complete, so that another test process finds
// all or nothing.
func fetchJars(dir string) error {
	mvn, err := exec.LookPath("mvn")
	if err != nil {
		return missing{"no mvn on the PATH and no jars in " + dir}
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	temp, err := os.MkdirTemp(filepath.Dir(dir), "fetching-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	if err := os.WriteFile(filepath.Join(temp, "pom.xml"), []byte(kafkaPOM), 0o644); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, mvn, "-q", "-B", copyDependencies, "-DoutputDirectory=lib")
	cmd.Dir = temp
	if out, err := cmd.CombinedOutput(); err != nil {
		return missing{fmt.Sprintf("Maven cannot fetch it: %v: %s", err, firstError(out))}
	}
	lib := filepath.Join(temp, "lib")
	if err := checkJars(lib); err != nil {
		return fmt.Errorf("jars from Maven: %w", err)
	}
	if err := os.Rename(lib, dir); err != nil && checkJars(dir) != nil { // else another process was faster
		return err
	}
	return nil
}

func firstError(out []byte) string {
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "ERROR") {
			return strings.TrimSpace(line)
		}
	}
	return strings.TrimSpace(string(out))
}

// checkJars compares the folder with the list.
func checkJars(dir string) error {
	if _, err := os.Stat(dir); err != nil {
		return err
	}
	s := bufio.NewScanner(bytes.NewReader([]byte(kafkaDigests)))
	for s.Scan() {
		want, name, _ := strings.Cut(s.Text(), "  ")
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			return fmt.Errorf("jar of the list: %w", errors.New(err.Error()))
		}
		h := sha256.New()
		_, err = io.Copy(h, f)
		f.Close()
		if err != nil {
			return err
		}
		if hex.EncodeToString(h.Sum(nil)) != want {
			return fmt.Errorf("%s is not the file of the list", name)
		}
	}
	return s.Err()
}
