// The state vector read through the scene schema: what demo's map and table know of a world is in here, by role.

const PAINT = { red: "#e5484d", green: "#30a46c", blue: "#3e7bfa", yellow: "#f2c230", purple: "#8e4ec6", orange: "#f76b15", white: "#f4f4f5", black: "#27272a", grey: "#8b8d98" };

export class SceneReader {
  constructor(schema) {
    this.schema = schema;
    let at = 0;
    this.entities = schema.entities.map((entity) => ({
      name: entity.name,
      fields: entity.fields.map((field) => {
        const start = at;
        at += field.size;
        return { ...field, start };
      }),
    }));
    const movable = (entity) => this.field(entity, "position") && !this.field(entity, "position").static;
    this.bodies = this.entities.filter(movable);
    this.spots = this.entities.filter((entity) => this.field(entity, "position")?.static);
    this.others = this.entities.filter((entity) => !this.bodies.includes(entity));
    this.player = this.bodies.find((entity) => entity.name === "player") ?? this.bodies[0];
  }

  field(entity, role) { return entity.fields.find((field) => field.role === role); }

  // The values of an entity's first field of this role, or undefined.
  get(state, entity, role) {
    const field = this.field(entity, role);
    return field && state.slice(field.start, field.start + field.size);
  }

  name(state, entity, role) {
    const field = this.field(entity, role);
    return field?.names[Math.round(state[field.start])];
  }

  find(state, role) {
    for (const entity of this.entities) {
      const values = this.get(state, entity, role);
      if (values) return values;
    }
  }

  present(state, entity) { return (this.get(state, entity, "present")?.[0] ?? 1) > 0.5; }

  paint(state, entity) {
    const name = this.name(state, entity, "colour");
    return name ? PAINT[name] ?? name : "#8b8d98";
  }
}
