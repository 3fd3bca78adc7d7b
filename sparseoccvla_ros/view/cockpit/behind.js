"use strict";
// Occupancy from behind the vehicle: one instanced draw call of cubes, the path and the vehicle's box. Plain WebGL 2.

const CUBES = `#version 300 es
uniform mat4 view; uniform vec3 lower, eye; uniform float size; uniform vec3 palette[32];
in uvec4 voxel; // x, y, z, class
flat out vec3 colour; out float far;
const vec3 normals[6] = vec3[6](vec3(1,0,0), vec3(-1,0,0), vec3(0,1,0), vec3(0,-1,0), vec3(0,0,1), vec3(0,0,-1));
const vec2 corners[6] = vec2[6](vec2(0,0), vec2(1,0), vec2(1,1), vec2(0,0), vec2(1,1), vec2(0,1));
void main() {
  vec3 n = normals[gl_VertexID / 6]; vec2 c = corners[gl_VertexID % 6];
  vec3 at = max(n, 0.0) + c.x * abs(n.yzx) + c.y * abs(n.zxy);
  vec3 place = lower + size * (vec3(voxel.xyz) + at);
  // Tops are brightest, and what faces the viewer is brighter than the sides.
  float light = n.z > 0.5 ? 1.0 : abs(n.x) > 0.5 ? 0.72 : 0.58;
  colour = palette[voxel.w] * light * (0.85 + 0.04 * float(voxel.z));
  far = clamp((distance(place, eye) - 25.0) / 45.0, 0.0, 0.8);
  gl_Position = view * vec4(place, 1.0);
}`;
const FLAT = `#version 300 es
uniform mat4 view; in vec3 place;
void main() { gl_Position = view * vec4(place, 1.0); }`;
const PAINT = [`#version 300 es
precision mediump float; uniform vec3 sky; flat in vec3 colour; in float far; out vec4 pixel;
void main() { pixel = vec4(mix(colour, sky, far), 1.0); }`, `#version 300 es
precision mediump float; uniform vec4 tint; out vec4 pixel;
void main() { pixel = tint; }`];
const SKY = [0.086, 0.106, 0.133], PATH_ABOVE = 0.45, LIFTED = 0.35; // m
const START = { yaw: 0, pitch: 0.42, distance: 24 };

class Behind {
  /** Draws on a canvas; `absent` is true if the browser lacks WebGL 2. */
  constructor(canvas) {
    this.canvas = canvas;
    this.seat = { ...START };
    const gl = this.gl = canvas.getContext("webgl2", { antialias: true });
    this.absent = !gl;
    if (!gl) return;
    this.cubes = this.program(CUBES, PAINT[0]);
    this.flat = this.program(FLAT, PAINT[1]);
    this.voxels = { array: gl.createVertexArray(), buffer: gl.createBuffer(), count: 0 };
    gl.bindVertexArray(this.voxels.array);
    gl.bindBuffer(gl.ARRAY_BUFFER, this.voxels.buffer);
    gl.enableVertexAttribArray(0);
    gl.vertexAttribIPointer(0, 4, gl.UNSIGNED_SHORT, 0, 0);
    gl.vertexAttribDivisor(0, 1);
    this.lines = { array: gl.createVertexArray(), buffer: gl.createBuffer() };
    gl.bindVertexArray(this.lines.array);
    gl.bindBuffer(gl.ARRAY_BUFFER, this.lines.buffer);
    gl.enableVertexAttribArray(0);
    gl.vertexAttribPointer(0, 3, gl.FLOAT, false, 0, 0);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA);
    this.listen();
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  program(vertex, fragment) {
    const gl = this.gl, made = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
      gl.attachShader(made, shader);
    }
    gl.bindAttribLocation(made, 0, vertex === CUBES ? "voxel" : "place");
    gl.linkProgram(made);
    return { made, at: (name) => gl.getUniformLocation(made, name) };
  }

  /** Dragging rotates, the wheel zooms, a double click resets the view. */
  listen() {
    const turn = (yaw, pitch, factor = 1) => {
      this.seat.yaw += yaw;
      this.seat.pitch = Math.min(1.5, Math.max(0.05, this.seat.pitch + pitch));
      this.seat.distance = Math.min(90, Math.max(6, this.seat.distance * factor));
      this.draw();
    };
    this.canvas.addEventListener("pointerdown", (e) => this.canvas.setPointerCapture(e.pointerId));
    this.canvas.addEventListener("pointermove", (e) => {
      if (e.buttons) turn(-0.008 * e.movementX, 0.008 * e.movementY);
    });
    this.canvas.addEventListener("wheel", (e) => { turn(0, 0, Math.exp(0.001 * e.deltaY)); e.preventDefault(); });
    this.canvas.addEventListener("dblclick", () => { this.seat = { ...START }; this.draw(); });
  }

  /** voxels: Uint16Array of x, y, z, class; scene: as cockpit_scene.py sends it. */
  show(voxels, scene) {
    if (this.absent) return;
    this.scene = scene;
    this.voxels.count = voxels.length / 4;
    this.gl.bindBuffer(this.gl.ARRAY_BUFFER, this.voxels.buffer);
    this.gl.bufferData(this.gl.ARRAY_BUFFER, voxels, this.gl.DYNAMIC_DRAW);
    this.draw();
  }

  draw() {
    const { gl, canvas, scene } = this;
    if (!scene) return;
    const ratio = Math.min(2, window.devicePixelRatio || 1);
    canvas.width = Math.max(1, Math.round(ratio * canvas.clientWidth));
    canvas.height = Math.max(1, Math.round(ratio * canvas.clientHeight));
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clearColor(...SKY, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    const { yaw, pitch, distance } = this.seat, aim = [6, 0, 0];
    const eye = [aim[0] - distance * Math.cos(pitch) * Math.cos(yaw), -distance * Math.cos(pitch) * Math.sin(yaw),
                 distance * Math.sin(pitch)];
    const view = multiply(perspective(0.9, canvas.width / canvas.height, 0.5, 200), lookAt(eye, aim));
    gl.enable(gl.DEPTH_TEST);
    gl.useProgram(this.cubes.made);
    gl.uniformMatrix4fv(this.cubes.at("view"), false, view);
    gl.uniform3fv(this.cubes.at("lower"), scene.lower);
    gl.uniform3fv(this.cubes.at("eye"), eye);
    gl.uniform3fv(this.cubes.at("sky"), SKY);
    gl.uniform1f(this.cubes.at("size"), scene.voxel);
    gl.uniform3fv(this.cubes.at("palette"), scene.palette.flatMap(rgb));
    gl.bindVertexArray(this.voxels.array);
    gl.drawArraysInstanced(gl.TRIANGLES, 0, 36, this.voxels.count);
    gl.useProgram(this.flat.made);
    gl.uniformMatrix4fv(this.flat.at("view"), false, view);
    const { front, rear, width, height } = scene.vehicle;
    this.paint(gl.TRIANGLES, box(rear, front, width, height), [0.87, 0.9, 0.94, 0.55]);
    for (const { points, score, chosen } of scene.candidates)
      if (!chosen) this.paint(gl.LINE_STRIP, [[0, 0], ...points].map(([x, y]) => [x, y, PATH_ABOVE]), [0.6, 0.75, 0.9, 0.2 + 0.6 * score]);
    const half = scene.path.length / 2;
    const strip = Array.from({ length: half }, (_, i) => [scene.path[i], scene.path.at(-1 - i)]).flat();
    this.paint(gl.TRIANGLE_STRIP, strip.map(([x, y]) => [x, y, PATH_ABOVE]), [...rgb(scene.colour), 0.85]);
  }

  paint(kind, points, tint) {
    const gl = this.gl;
    gl.uniform4fv(this.flat.at("tint"), tint);
    gl.bindVertexArray(this.lines.array);
    gl.bindBuffer(gl.ARRAY_BUFFER, this.lines.buffer);
    gl.bufferData(gl.ARRAY_BUFFER, new Float32Array(points.flat()), gl.DYNAMIC_DRAW);
    gl.drawArrays(kind, 0, points.length);
  }
}

const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16) / 255);

/** Returns the twelve triangles of a box. */
function box(rear, front, width, height) {
  const at = (i) => [i & 1 ? front : rear, (i & 2 ? 0.5 : -0.5) * width, LIFTED + (i & 4 ? height : 0)];
  const faces = [[0, 1, 3, 2], [4, 5, 7, 6], [0, 1, 5, 4], [2, 3, 7, 6], [0, 2, 6, 4], [1, 3, 7, 5]];
  return faces.flatMap(([a, b, c, d]) => [a, b, c, a, c, d]).map(at);
}

// Column-major 4 x 4, as WebGL takes them; z is up.
function perspective(angle, aspect, near, far) {
  const f = 1 / Math.tan(angle / 2);
  return [f / aspect, 0, 0, 0, 0, f, 0, 0, 0, 0, (far + near) / (near - far), -1, 0, 0, (2 * far * near) / (near - far), 0];
}

function lookAt(eye, aim) {
  const unit = (v) => v.map((x) => x / Math.hypot(...v));
  const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
  const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
  const back = unit(eye.map((x, i) => x - aim[i])), right = unit(cross([0, 0, 1], back)), up = cross(back, right);
  return [0, 1, 2].flatMap((i) => [right[i], up[i], back[i], 0]).concat(-dot(right, eye), -dot(up, eye), -dot(back, eye), 1);
}

function multiply(a, b) {
  return Array.from({ length: 16 }, (_, i) => [0, 1, 2, 3].reduce((sum, k) => sum + a[4 * k + (i % 4)] * b[4 * Math.floor(i / 4) + k], 0));
}
