"""The only code that speaks to Supabase's REST: typed RPCs, records, group commit."""
