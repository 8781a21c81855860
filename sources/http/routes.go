package http

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/millstream-io/millstream/pipeline"
)

// eventType is the type that a path of the tracking API names: "" for batches. ok is false for any other path.
func eventType(path string) (typ string, ok bool) {
	switch path {
	case "/v1/batch", "/v1/b", "/v1/import", "/beacon/v1/batch":
		return "", true
	case "/v1/identify", "/v1/i":
		return pipeline.TypeIdentify, true
	case "/v1/track", "/v1/t":
		return pipeline.TypeTrack, true
	case "/v1/page", "/v1/p":
		return pipeline.TypePage, true
	case "/v1/screen", "/v1/s":
		return pipeline.TypeScreen, true
	case "/v1/group", "/v1/g":
		return pipeline.TypeGroup, true
	case "/v1/alias", "/v1/a":
		return pipeline.TypeAlias, true
	}
	return "", false
}

// ServeHTTP answers one request.
func (s *Source) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.requests.Add(1)
	cors(w, r)
	ref := s.route(w, r)
	if ref == nil {
		return
	}
	if ref.retry > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(ref.retry))
	}
	answer(w, ref.status, map[string]any{"error": ref.text})
	s.refused.Add(1)
}

func (s *Source) route(w http.ResponseWriter, r *http.Request) *refusal {
	if !s.gate.enter() {
		return busy(http.StatusServiceUnavailable, retryAway, "the source is stopping: send again")
	}
	defer s.gate.leave()
	path := strings.TrimSuffix(r.URL.Path, "/")
	typ, collect := eventType(path)
	key, settings := settingsKey(path)
	var methods string
	switch {
	case collect:
		methods = "POST, OPTIONS"
	case settings, path == "/sourceConfig":
		methods = "GET, HEAD, OPTIONS"
	default:
		return refuse(http.StatusNotFound, "no such path: send events to /v1/batch")
	}
	switch {
	case r.Method == http.MethodOptions:
		w.Header().Set("Allow", methods)
		w.WriteHeader(http.StatusNoContent)
		return nil
	case !strings.Contains(methods, r.Method):
		w.Header().Set("Allow", methods)
		return refuse(http.StatusMethodNotAllowed, "the method is not allowed here: use %s", methods)
	case collect:
		return s.collect(w, r, typ)
	case settings:
		return s.segmentSettings(w, r, key)
	}
	return s.rudderConfig(w, r)
}

// settingsKey is the write key in the path /v1/projects/{key}/settings.
func settingsKey(path string) (string, bool) {
	rest, ok := strings.CutPrefix(path, "/v1/projects/")
	key, tail, _ := strings.Cut(rest, "/")
	return key, ok && tail == "settings"
}

// segmentSettings is what Segment's browser and mobile SDKs ask for before they send anything: where to send, and that no
// destination runs in the client.
func (s *Source) segmentSettings(w http.ResponseWriter, r *http.Request, key string) *refusal {
	if !s.keys.admit(key) {
		return unknownKey
	}
	protocol := "http"
	if r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https" {
		protocol = "https"
	}
	on := map[string]any{"__default": map[string]any{"enabled": true}}
	answer(w, http.StatusOK, map[string]any{
		"integrations": map[string]any{"Segment.io": map[string]any{
			"apiKey": key, "apiHost": r.Host + "/v1", "protocol": protocol, "addBundledMetadata": true, "unbundledIntegrations": []string{},
			"versionSettings": map[string]any{"version": "4.4.7", "componentTypes": []string{"browser"}},
		}},
		"plan":          map[string]any{"track": on, "identify": on, "group": on},
		"remotePlugins": []string{},
	})
	return nil
}

// rudderConfig is the same for RudderStack's SDKs: an enabled source without destinations.
func (s *Source) rudderConfig(w http.ResponseWriter, r *http.Request) *refusal {
	key := headerKey(r)
	if !s.keys.admit(key) {
		return unknownKey
	}
	answer(w, http.StatusOK, map[string]any{"source": map[string]any{
		"id": s.name, "name": s.name, "writeKey": key, "workspaceId": "millstream", "enabled": true,
		"config": map[string]any{}, "connections": []string{}, "destinations": []string{},
	}})
	return nil
}

// cors lets pages of any origin send events: a write key is no secret in a browser, and it decides alone.
func cors(w http.ResponseWriter, r *http.Request) {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return
	}
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Allow-Credentials", "true")
	h.Set("Access-Control-Expose-Headers", "Retry-After")
	h.Add("Vary", "Origin")
	if r.Method == http.MethodOptions {
		h.Add("Vary", "Access-Control-Request-Headers")
		h.Set("Access-Control-Allow-Methods", "GET, POST, OPTIONS")
		h.Set("Access-Control-Max-Age", "7200")
		if want := r.Header.Get("Access-Control-Request-Headers"); want != "" {
			h.Set("Access-Control-Allow-Headers", want)
		}
	}
}

// headerKey is the write key of the request's headers or query, "" if it has none: the user of Basic authentication, else
// X-Write-Key, else writeKey. The first that is there decides; the body's is asked last, since some clients mask it.
func headerKey(r *http.Request) string {
	if user, _, ok := r.BasicAuth(); ok && user != "" {
		return user
	}
	if k := r.Header.Get("X-Write-Key"); k != "" {
		return k
	}
	if !strings.Contains(r.URL.RawQuery, "writeKey") {
		return ""
	}
	q, _ := url.ParseQuery(r.URL.RawQuery)
	return q.Get("writeKey")
}

// admit tells whether the key may send: any may if no keys are configured.
func (k keyring) admit(key string) bool {
	if len(k) == 0 {
		return true
	}
	sum := sha256.Sum256([]byte(key))
	found := 0
	for i := range k {
		found |= subtle.ConstantTimeCompare(sum[:], k[i][:])
	}
	return found == 1
}

// unknownKey carries no WWW-Authenticate, which would make browsers ask their user for a password.
var unknownKey = refuse(http.StatusUnauthorized, "the write key is missing or unknown: send it as the user of Basic authentication, or as X-Write-Key")

// answer writes a JSON answer that nobody may cache.
func answer(w http.ResponseWriter, status int, body any) {
	b, err := json.Marshal(body)
	if err != nil { // only strings, booleans and maps of them
		panic(err)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(status)
	_, _ = w.Write(b) // a client that is gone needs no answer
}
