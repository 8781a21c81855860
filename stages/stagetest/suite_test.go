package stagetest_test

import (
	"testing"

	"github.com/millstream-io/millstream/stages"
	"github.com/millstream-io/millstream/stages/stagetest"
)

const (
	cleanYAML   = "- clean: {}\n"
	dedupYAML   = "- dedup: {window: 1h}\n"
	profileYAML = `- profile:
    orders:        {count: events, event: Order Completed}
    revenue:       {sum: properties.revenue, event: Order Completed, where: 'properties.currency == "GBP"'}
    basket:        {avg: properties.revenue, event: Order Completed}
    largest:       {max: properties.revenue, event: Order Completed}
    smallest:      {min: properties.quantity}
    products:      {unique: properties.sku}
    coupon:        {latest: properties.coupon}
    first_product: {first: properties.sku, event: Product Viewed}
    plan:          {latest: traits.plan}
    seen:          {max: timestamp}
    seen_first:    {min: timestamp}
    orders_2h:     {count: events, event: Order Completed, over: 2h}
    spent_3h:      {sum: properties.revenue, over: 3h}
    products_1h:   {unique: properties.sku, over: 1h}
`
	segmentYAML = `- segment:
    buyers:  orders >= 2
    rich:    revenue > 100 and orders > 0
    pro:     plan == "pro"
    york:    traits.address.city == "York"
    adults:  traits.age >= 18 and not (traits.age >= 65)
    recent:  seen > "2026-03-01T12:00:00Z"
    busy:    orders_2h >= 2 and spent_3h > 50
    quiet:   days_since(seen) > 0.05
    undone:  {did: Product Added, then_not: Order Completed, within: 20m}
    funnel:  {did: [Product Viewed, Product Added, Order Completed], within: 3h}
`
	scoreYAML = `- score:
    engagement: {points: {Product Viewed: 3, Order Completed: 20}, half_life: 2h, min_delta: 10, cross: [30]}
    alive:      {bgnbd: {r: 0.243, alpha: 4.414, a: 0.793, b: 2.426, unit: day}, event: Order Completed, cross: [0.5, 0.8]}
    ltv:        {gammagamma: {p: 6.25, q: 3.74, v: 15.44}, bgnbd: {r: 0.243, alpha: 4.414, a: 0.793, b: 2.426}, horizon: 90d, event: Order Completed, revenue: properties.revenue, eligible: orders >= 2, min_delta: 5}
    rfm:        {rfm: {recency: [1h, 6h], frequency: [2, 4], monetary: [100]}, event: Order Completed, revenue: properties.revenue}
    mixed:      {expr: 'revenue / orders + products', eligible: 'plan != "free"'}
`
)

// TestSuite runs the laws on every stage, behind the stages that it needs.
func TestSuite(t *testing.T) {
	chains := map[string]string{
		"clean":   cleanYAML,
		"dedup":   cleanYAML + dedupYAML,
		"profile": cleanYAML + dedupYAML + profileYAML,
		"score":   cleanYAML + dedupYAML + profileYAML + scoreYAML + "- segment: {hot: engagement >= 40, lost: alive < 0.9}\n",
		"segment": cleanYAML + dedupYAML + profileYAML + segmentYAML,
	}
	for _, kind := range stages.Kinds {
		if kind.Name == "identity" {
			continue // keeps no state but the link log, which no transaction undoes: TestPeople of pipeline/engine has its laws
		}
		chain, ok := chains[kind.Name]
		if !ok {
			t.Errorf("stage %s has no chain to be tested in", kind.Name)
		}
		t.Run(kind.Name, func(t *testing.T) { stagetest.Suite(t, stages.Kinds, chain) })
	}
}
