/* The table of known flows of one sender. */

#include "burst.h"

#include <stdlib.h>
#include <string.h>

enum { FIRST_BUCKETS = 16 };

static size_t bucket_of(const struct table *table, const unsigned char *addresses)
{
    uint64_t first;
    uint32_t rest;
    memcpy(&first, addresses, sizeof first);
    memcpy(&rest, addresses + sizeof first, sizeof rest);
    uint64_t mixed = (first ^ ((uint64_t)rest << 29)) * UINT64_C(0x9e3779b97f4a7c15);
    return (mixed >> 32) & (table->buckets_count - 1);
}

struct flow *table_find(const struct table *table, const unsigned char *addresses)
{
    if (table->flows_count == 0)
        return NULL;
    struct flow *flow = table->buckets[bucket_of(table, addresses)];
    while (flow != NULL && memcmp(flow->addresses, addresses, ADDRESSES_BYTES) != 0)
        flow = flow->next;
    return flow;
}

static void put_in(struct table *table, struct flow *flow)
{
    struct flow **bucket = &table->buckets[bucket_of(table, flow->addresses)];
    flow->next = *bucket;
    *bucket = flow;
}

static int grow(struct table *table)
{
    struct flow **before = table->buckets;
    size_t count = table->buckets_count;
    size_t wider = count ? 2 * count : FIRST_BUCKETS;
    struct flow **buckets = calloc(wider, sizeof *buckets);
    if (buckets == NULL)
        return -1;
    table->buckets = buckets;
    table->buckets_count = wider;
    for (size_t i = 0; i < count; i++) {
        while (before[i] != NULL) {
            struct flow *flow = before[i];
            before[i] = flow->next;
            put_in(table, flow);
        }
    }
    free(before);
    return 0;
}

int table_add(struct table *table, struct flow *flow)
{
    if (table->flows_count >= table->buckets_count && grow(table) < 0)
        return -1;
    put_in(table, flow);
    table->flows_count++;
    return 0;
}

void flow_free(struct flow *flow)
{
    if (flow->port.obj != NULL)
        PyBuffer_Release(&flow->port);
    Py_XDECREF(flow->templates);
    Py_XDECREF(flow->sink);
    Py_XDECREF(flow->flow);
    free(flow);
}

struct flow *table_forget(struct table *table)
{
    struct flow *unused = NULL;
    for (size_t i = 0; i < table->buckets_count; i++) {
        while (table->buckets[i] != NULL) {
            struct flow *flow = table->buckets[i];
            table->buckets[i] = flow->next;
            struct flow **list = flow->pins == 0 ? &unused : &table->pinned;
            flow->next = *list;
            *list = flow;
        }
    }
    free(table->buckets);
    table->buckets = NULL;
    table->buckets_count = table->flows_count = 0;
    return unused;
}

void flows_free(struct flow *first)
{
    while (first != NULL) {
        struct flow *next = first->next;
        flow_free(first);
        first = next;
    }
}

struct flow *flows_take_unpinned(struct flow **place)
{
    struct flow *unpinned = NULL;
    while (*place != NULL) {
        struct flow *flow = *place;
        if (flow->pins > 0) {
            place = &flow->next;
        } else {
            *place = flow->next;
            flow->next = unpinned;
            unpinned = flow;
        }
    }
    return unpinned;
}
