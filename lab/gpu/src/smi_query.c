/* nvidia-smi --query-gpu=... and --query-compute-apps=... --format=csv[,noheader][,nounits] */
#include "smi.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#define MIB (1024ULL * 1024ULL)
#define NOT_AVAILABLE "[N/A]"
enum { INVALID_FIELD = 2 };

struct answer { char text[1100]; const char *unit; };

static void number(struct answer *a, unsigned long long value, const char *unit)
{
    snprintf(a->text, sizeof a->text, "%llu", value);
    a->unit = unit;
}

static void watts(struct answer *a, unsigned milliwatts)
{
    snprintf(a->text, sizeof a->text, "%u.%02u", milliwatts / 1000, milliwatts % 1000 / 10);
    a->unit = "W";
}

static void text(struct answer *a, const char *value) { snprintf(a->text, sizeof a->text, "%s", value); }

static void timestamp(struct answer *a)
{
    time_t seconds = time(NULL);
    strftime(a->text, sizeof a->text, "%Y/%m/%d %H:%M:%S.000", localtime(&seconds));
}

static void ecc_count(struct answer *a, const struct card *c, unsigned long long count)
{
    if (c->errors_counted)
        number(a, count, "");
    else
        text(a, NOT_AVAILABLE);
}

static bool is(const char *field, const char *one, const char *other)
{
    return !strcmp(field, one) || (other && !strcmp(field, other));
}

static bool identity(const struct card *c, const char *f, struct answer *a)
{
    if (is(f, "name", "gpu_name"))
        text(a, c->name);
    else if (is(f, "uuid", "gpu_uuid"))
        text(a, c->uuid);
    else if (is(f, "serial", "gpu_serial"))
        text(a, c->serial);
    else if (is(f, "index", NULL))
        number(a, 0, "");
    else if (is(f, "count", NULL))
        number(a, 1, "");
    else if (is(f, "driver_version", NULL))
        text(a, c->driver);
    else if (is(f, "vbios_version", NULL))
        text(a, c->vbios);
    else if (is(f, "pci.bus_id", "gpu_bus_id"))
        text(a, c->pci.busId);
    else if (is(f, "pci.device_id", NULL))
        snprintf(a->text, sizeof a->text, "0x%08X", c->pci.pciDeviceId);
    else if (is(f, "compute_cap", NULL))
        snprintf(a->text, sizeof a->text, "%d.%d", c->capability[0], c->capability[1]);
    else if (is(f, "timestamp", NULL))
        timestamp(a);
    else
        return false;
    return true;
}

static bool load(const struct card *c, const char *f, struct answer *a)
{
    if (is(f, "memory.total", NULL))
        number(a, c->memory.total / MIB, "MiB");
    else if (is(f, "memory.used", NULL))
        number(a, c->memory.used / MIB, "MiB");
    else if (is(f, "memory.free", NULL))
        number(a, c->memory.free / MIB, "MiB");
    else if (is(f, "memory.reserved", NULL))
        number(a, c->memory.reserved / MIB, "MiB");
    else if (is(f, "utilization.gpu", NULL))
        number(a, c->load.gpu, "%");
    else if (is(f, "utilization.memory", NULL))
        number(a, c->load.memory, "%");
    else if (is(f, "temperature.gpu", NULL))
        snprintf(a->text, sizeof a->text, "%u", c->temperature);
    else if (is(f, "temperature.memory", NULL))
        text(a, "N/A");
    else if (is(f, "fan.speed", NULL))
        number(a, c->fan, "%");
    else if (is(f, "power.draw", "power.draw.instant"))
        watts(a, c->power_mw);
    else if (is(f, "power.limit", "enforced.power.limit"))
        watts(a, c->limit_mw);
    else if (is(f, "power.default_limit", "power.max_limit"))
        watts(a, c->default_mw);
    else if (is(f, "clocks.sm", "clocks.current.sm") || is(f, "clocks.gr", "clocks.current.graphics"))
        number(a, c->sm_clock, "MHz");
    else if (is(f, "clocks.mem", "clocks.current.memory"))
        number(a, c->memory_clock, "MHz");
    else if (is(f, "pstate", NULL))
        snprintf(a->text, sizeof a->text, "P%u", c->pstate);
    else
        return false;
    return true;
}

static bool health(const struct card *c, const char *f, struct answer *a)
{
    static const char *const modes[] = {"Default", "Exclusive_Thread", "Prohibited", "Exclusive_Process"};
    if (is(f, "ecc.mode.current", NULL))
        text(a, !c->ecc_supported ? NOT_AVAILABLE : c->ecc_current ? "Enabled" : "Disabled");
    else if (is(f, "ecc.mode.pending", NULL))
        text(a, !c->ecc_supported ? NOT_AVAILABLE : c->ecc_pending ? "Enabled" : "Disabled");
    else if (is(f, "ecc.errors.corrected.volatile.total", "ecc.errors.corrected.aggregate.total"))
        ecc_count(a, c, c->corrected);
    else if (is(f, "ecc.errors.uncorrected.volatile.total", "ecc.errors.uncorrected.aggregate.total"))
        ecc_count(a, c, c->uncorrected);
    else if (is(f, "remapped_rows.correctable", NULL))
        number(a, c->remapped[0], "");
    else if (is(f, "remapped_rows.uncorrectable", NULL))
        number(a, c->remapped[1], "");
    else if (is(f, "remapped_rows.pending", NULL))
        text(a, c->remapped[2] ? "Yes" : "No");
    else if (is(f, "remapped_rows.failure", NULL))
        text(a, c->remapped[3] ? "Yes" : "No");
    else if (is(f, "clocks_event_reasons.active", "clocks_throttle_reasons.active"))
        snprintf(a->text, sizeof a->text, "0x%016llX", c->event_reasons);
    else if (is(f, "persistence_mode", NULL))
        text(a, c->persistence ? "Enabled" : "Disabled");
    else if (is(f, "compute_mode", NULL))
        text(a, modes[c->compute_mode % 4]);
    else if (is(f, "display_active", "display_mode"))
        text(a, "Disabled");
    else if (is(f, "mig.mode.current", "mig.mode.pending"))
        text(a, NOT_AVAILABLE);
    else
        return false;
    return true;
}

static bool card_field(const struct card *c, unsigned row, const char *f, struct answer *a)
{
    (void)row;
    return identity(c, f, a) || load(c, f, a) || health(c, f, a);
}

static bool process_field(const struct card *c, unsigned row, const char *f, struct answer *a)
{
    if (is(f, "pid", NULL))
        number(a, c->processes[row].pid, "");
    else if (is(f, "process_name", "name"))
        text(a, c->processes[row].name);
    else if (!is(f, "used_memory", "used_gpu_memory"))
        return strncmp(f, "gpu_", 4) ? is(f, "timestamp", NULL) && (timestamp(a), true) : identity(c, f, a);
    else if (c->processes[row].bytes == ~0ULL)
        text(a, NOT_AVAILABLE), a->unit = "MiB";
    else
        number(a, c->processes[row].bytes / MIB, "MiB");
    return true;
}

typedef bool (*field_of)(const struct card *, unsigned, const char *, struct answer *);

/* One line: the headings or the values. false: a field that is not known, said in the real one's words. */
static bool print_row(const struct card *c, unsigned row, const char *fields, struct format format, bool heading,
                      field_of get, bool quiet)
{
    char list[2048];
    const char *separator = "";
    snprintf(list, sizeof list, "%s", fields);
    for (char *rest = list, *f; (f = strtok_r(rest, ", ", &rest));) {
        struct answer a = {"", ""};
        if (!get(c, row, f, &a)) {
            printf("Field \"%s\" is not a valid field to query.\n\n", f);
            return false;
        }
        if (quiet)
            continue;
        if (heading)
            printf(*a.unit ? "%s%s [%s]" : "%s%s", separator, f, a.unit);
        else
            printf(*a.unit && format.units && *a.text != '[' ? "%s%s %s" : "%s%s", separator, a.text, a.unit);
        separator = ", ";
    }
    if (!quiet)
        printf("\n");
    return true;
}

static int query(const struct card *c, unsigned rows, const char *fields, struct format format, field_of get)
{
    if (!print_row(c, 0, fields, format, false, get, true))
        return INVALID_FIELD;
    if (format.header)
        print_row(c, 0, fields, format, true, get, false);
    for (unsigned row = 0; row < rows; row++)
        print_row(c, row, fields, format, false, get, false);
    return 0;
}

int query_card(const struct card *c, const char *fields, struct format format)
{
    return query(c, 1, fields, format, card_field);
}

int query_processes(const struct card *c, const char *fields, struct format format)
{
    unsigned compute = 0; /* the C processes come first */
    while (compute < c->process_count && c->processes[compute].type == 'C')
        compute++;
    return query(c, compute, fields, format, process_field);
}
